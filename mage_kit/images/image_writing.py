"""Picture files that say how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mage_kit.base.files import atomic

KEY = "mage_kit"  # of the text in a PNG
_FRAME = 150  # milliseconds
_LAST = 1500


def write_png(picture: Image.Image, path: Path, settings: Mapping[str, object]) -> None:
    """Write a PNG whole or not at all, with its settings as JSON text under `KEY`."""
    info = PngInfo()
    info.add_text(KEY, json.dumps(settings))
    with atomic(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=info)


def save_gif(frames: Sequence[Image.Image], path: Path) -> None:
    """Write an animation that repeats, the last frame held a while."""
    times = [*[_FRAME] * (len(frames) - 1), _LAST]
    with atomic(path) as temporary:
        frames[0].save(temporary, format="GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
