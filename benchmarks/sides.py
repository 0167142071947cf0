"""Both sides of the end-to-end comparison with the same weights, and one step of each kind.

As a program it runs one side alone and prints its peak memory: `python -m benchmarks.sides NAME IMAGES DROPOUT ...`.
"""

from __future__ import annotations

import gc
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from mage_kernels import choose_attention, keep_freed_memory
from torch import Tensor

import mage_kit as mk
from benchmarks.published import PublishedMage
from mage_kit.losses import BatchMasks

RECIPES = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        images: Of a training step.
        dropout: On both sides.
        grid: Tokens a side: 16 for 256 pixels.
        model: "vitb" or "vitl".
    """

    images: int
    dropout: float
    grid: int = 16
    model: str = "vitb"

    def words(self) -> tuple[str, ...]:
        """As arguments of this program."""
        return str(self.images), str(self.dropout), str(self.grid), self.model

    def recipe(self) -> mk.Recipe:
        """The recipe with these settings."""
        rates = [f"model.{part}.dropout={self.dropout}" for part in ("encoder", "decoder", "embedding")]
        size = 16 * self.grid
        return mk.Recipe.load(RECIPES / f"mage_{self.model}.json", [*rates, f"tokenizer.image_size=[{size}, {size}]"])


class Bench:
    """Both models and their optimisers.

    Args:
        settings: What is measured.
        device: Where.
        sharing: Take models and optimisers from another one, which differs in the number of images.
        only: Build this side alone.
    """

    RATIO, STEPS, TAU = 0.7, 20, 6.0

    def __init__(
        self, settings: Settings, device: torch.device, sharing: Bench | None = None, only: str | None = None
    ) -> None:
        self.device, self.settings = device, settings
        recipe = settings.recipe()
        height, width = recipe.build_tokenizer().image_size
        self.pixels = torch.rand(settings.images, 3, height, width, device=device)
        if sharing is not None:
            self.model, self.plain = sharing.model, sharing.plain
            self.optimizer, self.plain_optimizer = sharing.optimizer, sharing.plain_optimizer
        else:
            self._build(recipe, only)
        codes, length = 1024, settings.grid**2
        self.ids = torch.randint(codes, (settings.images, length), device=device)

    def _build(self, recipe: mk.Recipe, only: str | None) -> None:
        model = recipe.build_model().to(self.device).train()
        if only is None or only.startswith("published"):
            self.plain = PublishedMage(model).to(self.device).train()
            self.plain.tokenizer = recipe.build_tokenizer().to(self.device).eval().requires_grad_(False)
            self.plain.tokenizer.load_state_dict(model.tokenizer.state_dict())
            theirs = [value for name, value in self.plain.named_parameters() if not name.startswith("tokenizer.")]
            self.plain_optimizer = torch.optim.AdamW(theirs, lr=1e-6, betas=(0.9, 0.95), weight_decay=0.05)
        if only is None or only.startswith("mage_kit"):
            self.model = model
            model.tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            encoder, kept = model.encoder, 1 + model.spec.grid.size - model.n_dropped
            assert isinstance(encoder, mk.ViTEncoder)
            shape = (self.settings.images, encoder.heads, kept, encoder.dim // encoder.heads)
            choice = choose_attention("auto", self.device, torch.bfloat16, shape, self.settings.dropout)
            model.set_attention(choice.implementation, inference="sdpa")
            self.attention = f"{choice.implementation} ({choice.reason})"
            ours = [value for _, value in model.trainable()]
            self.optimizer = torch.optim.AdamW(ours, lr=1e-6, betas=(0.9, 0.95), weight_decay=0.05, fused=True)

    def noise(self) -> Tensor:
        """Fresh mask noise."""
        return torch.rand(self.settings.images, self.settings.grid**2, device=self.device)

    def ours(self, live: bool) -> None:
        """One of our steps, with the tokenizer in the loop or from cached tokens."""
        with torch.autocast(self.device.type, torch.bfloat16):
            ids = self.model.tokenizer.encode(self.pixels) if live else self.ids
            ratio_B = torch.full((self.settings.images,), self.RATIO, dtype=torch.float64)
            plan = self.model.plan(ratio_B, self.noise())
            masks = BatchMasks(ratio_B, int(self.model.n_masked(ratio_B).sum()), 1)
            loss = self.model(ids, plan, masks).terms[0].total / masks.masked_tokens
        self._update(loss, self.optimizer)

    def reference(self, fast: bool) -> None:
        """One step of the published algorithm."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast):
            ids = self.plain.tokenizer.encode(self.pixels)
            loss = self.plain.loss(ids, self.RATIO, self.noise())
        self._update(loss, self.plain_optimizer)

    def _update(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 3.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def generate(self, ours: bool, fast: bool, steps: int = STEPS) -> None:
        """Generate images from nothing."""
        images = 64 if self.device.type == "cuda" else 4
        if ours:
            mk.generate(self.model, images, steps=steps)
            return
        self.plain.eval()
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=fast):
            self.plain.generate(images, steps, self.TAU)
        self.plain.train()

    def step(self, name: str) -> None:
        """One training step of a side, by its name."""
        if name.startswith("published"):
            self.reference("bfloat16" in name)
        else:
            self.ours("live" in name)

    def peak(self, name: str) -> float:
        """Bytes at the highest point of a step; the second, when the optimiser has its state."""
        self.step(name)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.step(name)
            return float(torch.cuda.max_memory_allocated(self.device))
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest point so far
        self.step(name)
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


def model_flops(settings: Settings) -> dict[str, float]:
    """FLOPs that one step, one step from cached tokens and one generation need: counted on our model, forward x 3.

    Forward passes are counted on the meta device; a training step is three of them (backward is two), the tokenizer's
    part one. What the reference computes in excess (logits of all positions and rows) is not work that is needed.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = settings.recipe().build_model()
    length = settings.grid**2
    ids = torch.zeros(settings.images, length, dtype=torch.int64, device="meta")
    ratio_B = torch.full((settings.images,), Bench.RATIO, dtype=torch.float64)
    masks = BatchMasks(ratio_B, int(model.n_masked(ratio_B).sum()), 1)
    pixels = torch.zeros(settings.images, 3, 16 * settings.grid, 16 * settings.grid, device="meta")
    counts = []
    made = 64 if torch.cuda.is_available() else 4
    blank = torch.ones(made, length, dtype=torch.bool, device="meta")
    for run in (
        lambda: model(ids, model.plan(ratio_B, torch.rand(ids.shape, device="meta")), masks),
        lambda: model.tokenizer.encode(pixels),
        lambda: model.logits(ids.new_zeros(made, length), blank),
        lambda: model.tokenizer.decode(ids.new_zeros(made, length)),
    ):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        counts.append(float(counter.get_total_flops()))
    step, encoding, logits, decoding = counts
    return {"cached": 3 * step, "step": 3 * step + encoding, "generation": Bench.STEPS * logits + decoding}


def main() -> None:
    """Print the peak memory of one side."""
    name, images, dropout, grid, model = sys.argv[1:]
    keep_freed_memory(name.startswith("mage_kit"))
    bench = Bench(Settings(int(images), float(dropout), int(grid), model), torch.device("cpu"), only=name)
    gc.collect()
    print(int(bench.peak(name)))


if __name__ == "__main__":
    main()
