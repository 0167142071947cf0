"""The demo page without a browser: strokes to masks, the canvas step by step, and mistakes."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import mage_kit as mk
from mage_kit.demo_page import build_page, serve
from mage_kit.demo_page.page import example
from mage_kit.demo_page.painting import Wish, alike, drawn_mask, enlarged, paint, reduced, sample
from tests import build

WISH = Wish(steps=4, temperature=3.0, token_temperature=1.0, dilate=0, seed=0, variants=2)


def stroke(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    layer = Image.new("RGBA", size)
    ImageDraw.Draw(layer).rectangle(box, fill=(225, 29, 72, 255))
    return layer


def test_a_stroke_masks_every_pixel_that_it_touches() -> None:
    layer = stroke((320, 320), (95, 40, 130, 60))  # of pixels ten times enlarged: columns 9 to 13, rows 4 to 6
    mask = drawn_mask([Image.new("RGBA", (320, 320)), layer], (32, 32))
    wanted = np.zeros((32, 32), dtype=bool)
    wanted[4:7, 9:14] = True
    assert np.array_equal(mask, wanted)
    assert not drawn_mask([], (32, 32)).any()


def test_small_pictures_are_enlarged_and_large_ones_reduced() -> None:
    picture = Image.effect_noise((32, 20), 60)
    assert enlarged(picture).size == (320, 200) and enlarged(picture.resize((400, 300))).size == (400, 300)
    assert reduced(Image.new("RGB", (4000, 1000))).size == (1024, 256) and reduced(picture) is picture
    assert alike(enlarged(picture), enlarged(picture).convert("RGB")) and not alike(
        picture, Image.effect_noise((32, 20), 60)
    )


def test_the_canvas_fills_step_by_step() -> None:
    model = build.mage().eval()
    picture = sample(model, 3)
    layers = [stroke(enlarged(picture).size, (0, 0, 150, 319))]
    shown = list(paint(model, picture, {"layers": layers}, WISH))
    assert len(shown) == 5 and [len(each.results) for each in shown] == [0, 0, 0, 0, 2]
    assert shown[0].line.startswith("step 1 of 4") and shown[3].line == "step 4 of 4: 0 tokens left"
    assert "8 of 16 tokens painted anew" in shown[-1].line
    grey = [(np.asarray(each.canvas) == 127).mean() + (np.asarray(each.canvas) == 128).mean() for each in shown[:4]]
    assert grey[0] > grey[2] and grey[3] < 0.1
    right = np.asarray(shown[-1].results[0])[:, 240:]
    assert np.array_equal(right, np.asarray(enlarged(picture))[:, 240:]), "what was not drawn over stays"


def test_the_canvas_is_shown_while_it_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is on the page before the next one has begun, and a page that was closed ends the decoding."""
    model = build.mage().eval()
    picture, begun, go_on = sample(model, 3), [], threading.Event()
    logits = model.logits

    def slow(*given: Any, **more: Any) -> torch.Tensor:
        begun.append(1)
        assert len(begun) < 3 or go_on.wait(20)
        return logits(*given, **more)

    monkeypatch.setattr(model, "logits", slow)
    pages = paint(model, picture, {"layers": [stroke(enlarged(picture).size, (0, 0, 319, 150))]}, WISH)
    assert [next(pages).line[:6] for _ in range(2)] == ["step 1", "step 2"] and len(begun) <= 3
    closing = threading.Thread(target=pages.close)
    closing.start()
    time.sleep(0.1)
    go_on.set()
    closing.join(20)
    assert not closing.is_alive() and len(begun) == 3, "the fourth step never began"


def test_drawing_nothing_is_said() -> None:
    model = build.mage().eval()
    for edited in ({}, {"layers": []}, {"layers": [Image.new("RGBA", (320, 320))]}):
        with pytest.raises(ValueError, match="Draw on the picture first"):
            next(paint(model, sample(model, 0), edited, WISH))


def test_the_page_is_of_this_machine_alone(tmp_path: Path) -> None:
    model = build.mage().eval()
    page = build_page(model, "tiny", sample(model, 0))
    assert page.analytics_enabled is False
    with pytest.raises(mk.PartsError, match="the page needs codes, Patches has none"):
        build_page(build.mage(mk.Patches(image_size=(16, 16), channels=1, patch=4)), "pixels", sample(model, 0))
    saved = mk.save(model, tmp_path / "model")
    assert example(saved, model).size == (16, 16), "no data: the model makes one"
    with pytest.raises(mk.MageKitError, match="there is no such file or folder"):
        serve(tmp_path / "nowhere")
