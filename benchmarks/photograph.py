"""Inpainting, outpainting and uncropping at 256 x 256, on a photograph that no part was trained on.

python -m benchmarks.photograph [--out runs/photograph] [--crops runs/tokenizers/crops]

Tokenizer (squared error with chroma weighed by 4, SqueezeNet's distance, an adversary) and model learn the photographs
of photograph_crops.py, some 180 where gcompris-qt-data is installed; scikit-learn's `china.jpg`, which is painted anew,
is held out of all of them. The tokenizer has convolutions alone: it learns on pictures of half the side, at a quarter
of the cost, and the same scale. Some three hours on two cores; an earlier call's runs are taken, or gone on with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from mage_kernels import keep_freed_memory
from PIL import Image

import mage_kit as mk
from benchmarks.photograph_crops import write_crops
from benchmarks.tokenizer_models import small_mage
from mage_kit.images.pictures import labelled_sheets, save_picture, side_by_side
from mage_kit.recipes.token_recipe import on_tokens
from mage_kit.store.folders import MODEL_FILE, RECIPE_FILE, TOKENIZER_FOLDER
from mage_kit.studies.tokenize import tokenize
from mage_kit.training.weight_folders import read_tokenizer_card

SIDE = 256
CROPS = 24  # of each photograph, cached
VARIANTS = 3
_AUGMENT = {"area": [0.2, 1.0], "aspect": [0.8, 1.25], "flip": 0.5, "views": 1, "filter": "bicubic"}
_HALF = {**_AUGMENT, "area": [0.05, 0.25]}  # of half the side: as many pixels of the photograph to one of the view


def tokenizer_recipe(photographs: Path) -> mk.Recipe:
    """A tokenizer of one token for 8 x 8 pixels, as vqgan_photos.json trains one."""
    shipped = mk.Recipe.load("vqgan_photos")
    assert shipped.training is not None
    data = {"kind": "image_folder", "path": str(photographs), "augment": _HALF}
    tokenizer = {
        **shipped.tokenizer.model_dump(mode="json"), "image_size": [SIDE // 2, SIDE // 2], "multipliers": [1, 2, 4, 8],
    }  # fmt: skip
    task = {**shipped.training.model_dump(mode="json"), "steps": 5000, "checkpoint_every": 100}
    return shipped.extended(name="photograph_tokenizer", fit=[], data=data, tokenizer=tokenizer, training=task)


def model_recipe(photographs: Path, tokenizer: Path) -> mk.Recipe:
    """A small MAGE on its tokens, 32 x 32 of a picture."""
    before = tokenizer_recipe(photographs).changed("data", augment=_AUGMENT)
    model = small_mage(192, 5, 2, 0.1)
    model["generation"] = {
        "schedule": {"kind": "cosine"}, "selection": {"kind": "gumbel_confidence", "temperature": 1.0},
        "steps": 16, "token_temperature": [0.8, 0.8],
    }  # fmt: skip
    task = {
        "kind": "masked", "batch": 8, "epochs": None, "steps": 4000, "warmup_epochs": None, "warmup_steps": 200,
        "base_lr": 0.012, "checkpoint_every": 200,
    }  # fmt: skip
    form = {**before.tokenizer.model_dump(mode="json"), "image_size": [SIDE, SIDE], "weights": str(tokenizer)}
    return before.extended(name="photograph", tokenizer=form, model=model, training=task)


def fitted(crops: Path, out: Path) -> mk.Mage:
    """Train tokenizer and model, or go on where an earlier call stopped."""
    photographs, first, run = crops / "photographs" / "training", out / "tokenizer_run", out / "run"
    if not read_tokenizer_card(first / TOKENIZER_FOLDER).get("fingerprint"):
        mk.train(tokenizer_recipe(photographs), first, resume=(first / RECIPE_FILE).is_file())
    if not (run / MODEL_FILE).is_file():
        recipe = model_recipe(photographs, first)
        cached = on_tokens(recipe, tokenize(recipe, out / "cache", crops=CROPS))
        mk.train(cached, run, resume=(run / RECIPE_FILE).is_file())
    return mk.load(run)


def square(photograph: Path) -> Image.Image:
    """The middle of the photograph, 256 x 256."""
    with Image.open(photograph) as opened:
        picture = opened.convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


def edits(model: mk.Mage, picture: Image.Image) -> Image.Image:
    """Inpaint, outpaint and uncrop the picture; one row each."""
    hole = np.zeros((SIDE, SIDE), dtype=bool)
    hole[96:176, 80:192] = True
    cut = picture.crop((0, 0, SIDE - 96, SIDE))
    small = picture.crop((64, 64, 192, 192))
    results = {
        "inpaint: a hole of 112 x 80": mk.inpaint(model, picture, hole, n=VARIANTS),
        "outpaint: 96 columns at the right": mk.outpaint(model, cut, right=96, n=VARIANTS),
        "uncrop: 128 x 128 into 256 x 256": mk.uncrop(model, small, SIDE, SIDE, n=VARIANTS),
    }
    return labelled_sheets(
        [(name, side_by_side([picture, item.canvas, *item.pictures])) for name, item in results.items()]
    )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/photograph"))
    parser.add_argument("--crops", type=Path, default=Path("runs/tokenizers/crops"), help="written where absent")
    arguments = parser.parse_args()
    keep_freed_memory()
    import sklearn

    write_crops(arguments.crops)
    photograph = Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg"
    model = fitted(arguments.crops, arguments.out)
    save_picture(edits(model, square(photograph)), arguments.out / "edits.png")
    print(f"written: {arguments.out / 'edits.png'}")


if __name__ == "__main__":
    main()
