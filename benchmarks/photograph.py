"""Inpainting, outpainting and uncropping at 256 x 256, on a photograph: a tokenizer and a model fitted to crops of it.

python -m benchmarks.photograph [--out runs/photograph] [--photograph china.jpg]

Half an hour and more on two cores. The models have seen the whole photograph, hole and all, and nothing else: the
pictures show what editing does, not how well a model generalises. The photographs are scikit-learn's.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from mage_kernels import keep_freed_memory
from PIL import Image

import mage_kit as mk
from mage_kit.images.pictures import labelled_sheets, save_picture, side_by_side
from mage_kit.recipes.token_recipe import on_tokens
from mage_kit.store.folders import MODEL_FILE
from mage_kit.studies.tokenize import tokenize

SIDE = 256
COPIES = 64  # of the photograph in the folder, each cropped anew: as many as a batch wants
CROPS = 40
VARIANTS = 3


def recipe(folder: Path) -> mk.Recipe:
    """A small MAGE of 16 x 16 tokens."""
    vit = {"kind": "vit", "dim": 192, "heads": 6, "dropout": 0.05}
    said: dict[str, Any] = {
        "name": "photograph",
        "data": {
            "kind": "image_folder",
            "path": str(folder),
            "augment": {"area": [0.25, 0.7], "aspect": [0.95, 1.05], "flip": 0.0, "views": 1, "filter": "bicubic"},
        },
        "tokenizer": {
            "kind": "vqgan", "image_size": [SIDE, SIDE], "channels": 3, "base_channels": 16,
            "multipliers": [1, 2, 2, 4, 8], "res_blocks": 1, "middle_blocks": 2, "norm_groups": 8,
            "quantizer": {"kind": "ema", "codes": 512, "width": 64},
        },
        "tokenizer_training": {
            "kind": "reconstruct", "steps": 900, "batch": 8, "lr": 0.001, "warmup_steps": 30, "checkpoint_every": 200,
        },
        "model": {
            "kind": "mage",
            "mask_ratio": {"kind": "truncated_normal"},
            "ratio_group": 1,
            "encoder": {**vit, "depth": 6},
            "padding": {"kind": "class_token"},
            "decoder": {**vit, "depth": 3},
            "losses": [{"kind": "masked_cross_entropy", "weight": 1.0, "label_smoothing": 0.1}],
            "generation": {
                "schedule": {"kind": "cosine"}, "selection": {"kind": "gumbel_confidence", "temperature": 1.0},
                "steps": 16, "token_temperature": [0.7, 0.7],
            },
        },
        "training": {
            "kind": "masked", "batch": 32, "epochs": 600, "warmup_epochs": 20, "base_lr": 0.008,
            "checkpoint_every": 200,
        },
    }  # fmt: skip
    return mk.Recipe.parse(said)


def fitted(photograph: Path, out: Path) -> mk.Mage:
    """Fit tokenizer and model, or go on where an earlier call stopped."""
    run = out / "run"
    if (run / MODEL_FILE).is_file():
        return mk.load(run)
    folder = out / "crops_of"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(COPIES):
        shutil.copy(photograph, folder / f"{number:02d}.jpg")
    asked = recipe(folder)
    first = out / "tokenizer"  # a run that is over after one step of its model: all that is wanted is its tokenizer
    if not (first / MODEL_FILE).is_file():
        short = asked.changed("training", epochs=0.5, warmup_epochs=0)
        mk.train(short, first, resume=(first / "recipe.json").is_file())
    asked = asked.changed("tokenizer", weights=str(first)).extended(tokenizer_training=None)
    tokenize(asked, out / "cache", crops=CROPS)
    mk.train(on_tokens(asked, out / "cache"), run, resume=(run / "recipe.json").is_file())
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
    made = {
        "inpaint: a hole of 112 x 80": mk.inpaint(model, picture, hole, n=VARIANTS),
        "outpaint: 96 columns at the right": mk.outpaint(model, cut, right=96, n=VARIANTS),
        "uncrop: 128 x 128 into 256 x 256": mk.uncrop(model, small, SIDE, SIDE, n=VARIANTS),
    }
    return labelled_sheets(
        [(name, side_by_side([picture, item.canvas, *item.pictures])) for name, item in made.items()]
    )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/photograph"))
    parser.add_argument("--photograph", default="china.jpg", choices=("china.jpg", "flower.jpg"))
    asked = parser.parse_args()
    keep_freed_memory()
    import sklearn

    photograph = Path(sklearn.__file__).parent / "datasets" / "images" / asked.photograph
    model = fitted(photograph, asked.out)
    save_picture(edits(model, square(photograph)), asked.out / "edits.png")
    print(f"written: {asked.out / 'edits.png'}")


if __name__ == "__main__":
    main()
