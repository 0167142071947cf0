"""How many tokens keep their id when the frozen tokenizer runs in bfloat16: on tokenizers trained here.

    python -m benchmarks.agreement [--fresh]

One learns the handwritten digits as recipes/digits.json says, one, with the levels of the published 16x tokenizer,
learns 64-pixel crops of scikit-learn's two photographs. Both are measured on images that they were not trained on:
digits shifted and scaled, crops of another part. They are kept in runs/benchmarks/ and used again.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
import torch
from mage_kernels import keep_freed_memory
from torch import Tensor

import mage_kit as mk
from benchmarks.sides import RECIPES
from mage_kit.base.precision import bfloat16_products
from mage_kit.store.folders import save_tokenizer
from mage_kit.store.loading import load_tokenizer
from mage_kit.training.tasks.tokens import token_agreement

CROP, STEPS, BATCH = 64, 300, 32
KEPT = Path(__file__).parent.parent / "runs" / "benchmarks"


def agreements(device: torch.device, fresh: bool = False) -> dict[str, float]:
    """Return the share of equal ids of each tokenizer, training those that are not there.

    Args:
        device: Where.
        fresh: Train again.
    """
    found = {}
    for name, tokenizer, images, others in (digits(), photographs()):
        folder, start, note = KEPT / f"{name}-{fingerprint()}", time.monotonic(), "kept from before"
        if fresh or not folder.is_dir():
            error = train(tokenizer.to(device), images, device)
            save_tokenizer(tokenizer, folder, overwrite=True)
            note = f"mean squared error {error:.4f} after {STEPS} steps, {time.monotonic() - start:.0f} s"
        tokenizer, others = load_tokenizer(folder).to(device), others.to(device)
        found[name] = token_agreement(lambda part, own=tokenizer: {"tokens": own.encode(part)}, others)
        codes, length = len(tokenizer.encode(others).unique()), tokenizer.spec.grid.size
        print(
            f"{name}: {found[name]:.2%} of {len(others)} x {length} ids agree, {codes} codes in use ({note})",
            flush=True,
        )
    return found


def fingerprint() -> str:
    """Of what the tokenizers depend on: this file, the recipe, the tokenizers' code."""
    root = Path(__file__).parent.parent
    files = [Path(__file__), RECIPES / "digits.json", *sorted((root / "mage_kit" / "tokenizers").glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def digits() -> tuple[str, mk.Tokenizer, Tensor, Tensor]:
    """Digits: the recipe's tokenizer, its augmented views to train on, others to measure on."""
    recipe = mk.Recipe.load(RECIPES / "digits.json")
    dataset = recipe.build_dataset()
    views = [torch.from_numpy(dataset.sample(index, 0, recipe.seed).views[0]) for index in range(len(dataset))]
    others = [torch.from_numpy(dataset.sample(index, 1, recipe.seed).views[0]) for index in range(0, len(dataset), 7)]
    return "digits", recipe.build_tokenizer(), as_float(torch.stack(views)), as_float(torch.stack(others))


def photographs() -> tuple[str, mk.Tokenizer, Tensor, Tensor]:
    """Crops of the two photographs that scikit-learn carries: the left five sixths to train on, the rest to measure."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    crops: dict[bool, list[Tensor]] = {True: [], False: []}
    for picture in load_sample_images().images:
        height, width = picture.shape[:2]
        edge = width * 5 // 6
        for training, count in ((True, 1024), (False, 128)):
            low, high = (0, edge - CROP) if training else (edge, width - CROP)
            for _ in range(count):
                top, left = random.integers(0, height - CROP), random.integers(low, high)
                crops[training].append(torch.from_numpy(picture[top : top + CROP, left : left + CROP].copy()))
    images, others = (torch.stack(crops[part]).permute(0, 3, 1, 2) for part in (True, False))
    torch.manual_seed(0)
    tokenizer = mk.VQGAN(
        image_size=(CROP, CROP),
        base_channels=32,
        multipliers=(1, 1, 2, 2, 4),
        quantizer=mk.EMACodebook(codes=512, width=64),
    )
    return "photographs", tokenizer, as_float(images), as_float(others)


def as_float(images_BCHW: Tensor) -> Tensor:
    """8-bit images as float in [0, 1]."""
    return images_BCHW.float() / 255


def train(tokenizer: mk.Tokenizer, images: Tensor, device: torch.device) -> float:
    """Train a tokenizer; return the last steps' mean squared error."""
    random = torch.Generator().manual_seed(0)
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tokenizer.start_training()
    values = [value for value in tokenizer.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(values, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    rate, errors = mk.Rate(2e-3, STEPS // 10), []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate.at(step, STEPS)
        batch = images[torch.randint(len(images), (BATCH,), generator=random)].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16_products(device)):
            losses = tokenizer.objective(batch, step / STEPS, torch.Generator().manual_seed(step))
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(values, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        errors.append(float(losses.parts["mse"]))
    tokenizer.finish_training()
    return float(np.mean(errors[-20:]))


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="train again")
    keep_freed_memory()
    agreements(torch.device("cuda" if torch.cuda.is_available() else "cpu"), parser.parse_args().fresh)


if __name__ == "__main__":
    main()
