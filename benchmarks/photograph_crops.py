"""Crops of photographs to train and to judge tokenizers on, from installed packages: nothing is downloaded or shipped.

scikit-learn's two photographs, and, where Debian's gcompris-qt-data is installed (`apt-get install gcompris-qt-data`;
authors and licences by file in its copyright file), some 230 of animals, monuments, tools and landscapes. Photographs,
not crops, are split into those to train on and those held out; `china.jpg` is always held out. Each is tiled at three
scales: whole, and with a short side of two and of three crops.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.qt_resources import Resources
from mage_kit.base.files import atomic_folder, read_json, write_json

PACKAGE = Path("/usr/share/gcompris-qt/rcc")
_SOURCES = {  # resource file: folders of photographs in it; the empty one is any
    "categorization": ("tools", "renewable", "monuments", "fishes", "others"),
    "erase": (),
    "explore_farm_animals": (),
    "explore_monuments": (),
    "explore_world_animals": (),
    "explore_world_music": (),
}
_LEAST, _SCALES = 192, (1, 2, 3)  # pixels of a short side; crops along it
_SAME = 0.95  # correlation of two pictures' grey thumbnails from which they are one
_FIFTH = 5  # of so many photographs one is held out
FACTS = "photographs.json"


def photographs(package: Path = PACKAGE) -> Iterator[tuple[str, Image.Image]]:
    """Yield name and picture of each photograph in RGB, one that is there twice once."""
    thumbnails: list[np.ndarray] = []
    for name, picture in (*_of_scikit_learn(), *_of_gcompris(package)):
        if picture.mode != "RGB" or min(picture.size) < _LEAST:
            continue
        grey = np.asarray(picture.convert("L").resize((16, 16), Image.Resampling.BOX), dtype=float).ravel()
        grey = (grey - grey.mean()) / max(1e-9, float(np.linalg.norm(grey - grey.mean())))
        if all(float(grey @ other) < _SAME for other in thumbnails):
            thumbnails.append(grey)
            yield name, picture


def _of_scikit_learn() -> Iterator[tuple[str, Image.Image]]:
    sample = load_sample_images()
    for path, pixels in zip(sample.filenames, sample.images, strict=True):
        yield f"scikit-learn/{Path(path).name}", Image.fromarray(pixels)


def _of_gcompris(package: Path) -> Iterator[tuple[str, Image.Image]]:
    for source, parts in _SOURCES.items():
        file = package / f"{source}.rcc"
        if not file.is_file():
            continue
        resources = Resources.open(file)
        for name, node in sorted(resources.members()):
            folder, _, picture = name.rpartition("/")
            if picture.endswith(".webp") and (not parts or folder.rpartition("/")[2] in parts):
                image = Image.open(io.BytesIO(resources.read(node)))
                yield f"{source}/{folder.rpartition('/')[2]}/{picture}", image


def is_held_out(name: str) -> bool:
    """Tell on which side a photograph lies, by its name alone; scikit-learn's two are on one side each."""
    if name.startswith("scikit-learn/"):
        return name.endswith("china.jpg")
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % _FIFTH == 0


def tiles(picture: Image.Image, side: int) -> Iterator[Image.Image]:
    """Yield square crops that do not overlap, at each scale."""
    for scale in _SCALES:
        factor = scale * side / min(picture.size)
        width, height = (max(scale * side, round(length * factor)) for length in picture.size)
        whole = picture.resize((width, height), Image.Resampling.LANCZOS)
        left, top = (width % side) // 2, (height % side) // 2
        for row in range(height // side):
            for column in range(width // side):
                x, y = left + column * side, top + row * side
                yield whole.crop((x, y, x + side, y + side))


def write_crops(out: Path, side: int = 64, package: Path = PACKAGE) -> dict[str, Any]:
    """Write crops into OUT/training and OUT/held_out, and whole photographs into OUT/photographs/ of the same parts.

    Args:
        out: Folder; a whole one is taken as it is.
        side: Pixels a side of a crop.
        package: Where GCompris' resource files are.

    Returns:
        How many photographs and crops of either part, the digest of all crops, and where they are from.
    """
    if (out / FACTS).is_file():
        facts: dict[str, Any] = read_json(out / FACTS)
        return facts
    facts = {"side": side, "package": "gcompris-qt-data" if package.is_dir() else "none", "sha256": ""}
    facts |= {part: {"photographs": 0, "crops": 0} for part in ("training", "held_out")}
    digest = hashlib.sha256()
    with atomic_folder(out) as folder:
        for name, picture in photographs(package):
            part = "held_out" if is_held_out(name) else "training"
            facts[part]["photographs"] += 1
            stem = name.rpartition(".")[0].replace("/", "-")
            for kind in (part, f"photographs/{part}"):
                (folder / kind).mkdir(parents=True, exist_ok=True)
            picture.save(folder / "photographs" / part / f"{stem}.png")
            for number, crop in enumerate(tiles(picture, side)):
                digest.update(crop.tobytes())
                crop.save(folder / part / f"{stem}-{number:02d}.png")
                facts[part]["crops"] += 1
        facts["sha256"] = digest.hexdigest()
        write_json(folder / FACTS, facts)
    return facts
