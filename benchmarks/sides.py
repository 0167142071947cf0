"""Both sides of the end-to-end comparison, with the same weights, and what each can be told to do."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mage_kernels import choose_attention
from torch import Tensor, nn

import mage_kit as mk
from benchmarks.published import PublishedMage
from mage_kit.base.precision import bfloat16_products
from mage_kit.losses import BatchMasks
from mage_kit.optimizers import AdamW, set_lr, take_step
from mage_kit.training.clipping import clip_divisor, gradient_norm
from mage_kit.training.verdicts import skips

TOY = (  # changes of a recipe to a model of two narrow layers
    "tokenizer.base_channels=32",
    "tokenizer.quantizer.codes=32",
    "tokenizer.res_blocks=1",
    "tokenizer.multipliers=[1, 1, 2, 2, 2]",
    'model.encoder={"kind": "vit", "dim": 32, "depth": 1, "heads": 2, "dropout": 0.1}',
    'model.decoder={"kind": "vit", "dim": 32, "depth": 1, "heads": 2, "dropout": 0.1}',
)
RECIPES = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        images: Of a training step.
        dropout: On both sides.
        grid: Tokens a side: 16 for 256 pixels.
        model: "vitb" or "vitl".
        made: Images of a generation.
        changes: To the recipe, as `Recipe.load` takes them.
    """

    images: int
    dropout: float
    grid: int = 16
    model: str = "vitb"
    made: int = 4
    changes: tuple[str, ...] = ()

    def recipe(self) -> mk.Recipe:
        """The recipe with these settings."""
        rates = [f"model.{part}.dropout={self.dropout}" for part in ("encoder", "decoder", "embedding")]
        size = f"tokenizer.image_size=[{16 * self.grid}, {16 * self.grid}]"
        return mk.Recipe.load(RECIPES / f"mage_{self.model}.json", [*rates, size, *self.changes])


def job_dtype(device: torch.device) -> torch.dtype:
    """Return what our jobs compute a ViT in on a device: their rule of precision."""
    return torch.bfloat16 if bfloat16_products(device) else torch.float32


class Bench:
    """One side's model and optimiser, and what it can be told to do.

    Args:
        settings: What is measured.
        device: Where.
        side: "published" or "mage_kit".
        compiled: Of ours: compile it as training does where that pays; None for on CUDA.
    """

    RATIO, STEPS, TAU = 0.7, 20, 6.0

    def __init__(self, settings: Settings, device: torch.device, side: str, compiled: bool | None = None) -> None:
        self.device, self.settings, self.attention = device, settings, "written out"
        self.dtype = job_dtype(device)
        recipe = settings.recipe()
        model = recipe.build_model()
        height, width = model.tokenizer.image_size
        self.pixels = torch.rand(settings.images, 3, height, width, device=device)
        self.ids = torch.randint(model.spec.codes or 1, (settings.images, model.spec.grid.size), device=device)
        if side == "published":
            self.plain = PublishedMage(model).to(device).train()
            self.plain.tokenizer.to(device)
            theirs = [value for name, value in self.plain.named_parameters() if not name.startswith("tokenizer.")]
            self.optimizer = torch.optim.AdamW(theirs, lr=1e-6, betas=(0.9, 0.95), weight_decay=0.05)
        else:
            self.model = model.to(device).train()
            self.module: nn.Module = self.model  # what a step runs: engines wrap it
            self._prepare(model)
            if compiled or (compiled is None and device.type == "cuda"):
                self.compile()

    def compile(self, **options: Any) -> None:
        """Compile blocks and the tokenizer's encoder, as a training does."""
        self.model.compile_training(**options)
        self.model.tokenizer.compile_encoder(dynamic=False, **options)

    def _prepare(self, model: mk.Mage) -> None:
        """What our training does before its first step."""
        model.tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        encoder, decoder, length = model.encoder, model.decoder, model.spec.grid.size
        assert isinstance(encoder, mk.ViTEncoder) and isinstance(decoder, mk.ViTDecoder)
        said = []
        for part, seen in ((encoder, 1 + length - model.n_dropped), (decoder, 1 + length)):
            shape = (self.settings.images, part.heads, seen, part.dim // part.heads)
            choice = choose_attention("auto", self.device, self.dtype, shape, self.settings.dropout)
            model.set_attention(choice.implementation, "sdpa", part)
            said.append(f"{choice.implementation} ({choice.reason})")
        self.attention = "; ".join(said)
        self.optimizer = AdamW()(dict(model.trainable()))
        set_lr(self.optimizer, 1e-6)

    def do(self, order: str) -> None:
        """Do one thing: "step NAME" or "generation NAME [STEPS]"; names are those of the table."""
        task, name, *steps = order.split()
        if task == "generation":
            self.generate(name, int(steps[0]) if steps else self.STEPS)
        elif name in ("live", "cached"):
            self.ours(name == "live")
        else:
            self.reference(name == "same")

    def noise(self) -> Tensor:
        """Fresh mask noise."""
        return torch.rand(self.settings.images, self.settings.grid**2, device=self.device)

    def autocast(self) -> torch.autocast:
        """Our precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def ours(self, live: bool) -> None:
        """One of our steps, with the tokenizer in the loop or from cached tokens."""
        with self.autocast():
            ids = self.model.tokenizer.encode(self.pixels) if live else self.ids
            ratio_B = torch.full((self.settings.images,), self.RATIO, dtype=torch.float64)
            plan = self.model.plan(ratio_B, self.noise())
            masks = BatchMasks(ratio_B, int(self.model.n_masked(ratio_B).sum()), 1)
            loss = self.module(ids, plan, masks).terms[0].total / masks.masked_tokens
        loss.backward()
        norm = gradient_norm(value for _, value in self.model.trainable())
        take_step(self.optimizer, skips(norm), clip_divisor(norm, 3.0))
        self.optimizer.zero_grad()

    def reference(self, same: bool) -> None:
        """One step of the published algorithm, in float32 or in the same precision as ours."""
        with self.autocast() if same else contextlib.nullcontext():
            ids = self.plain.tokenizer.encode(self.pixels)
            loss = self.plain.loss(ids, self.RATIO, self.noise())
        loss.backward()
        theirs = [value for group in self.optimizer.param_groups for value in group["params"]]
        torch.nn.utils.clip_grad_norm_(theirs, 3.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def generate(self, name: str, steps: int) -> None:
        """Generate images from nothing."""
        if name == "mage_kit":
            mk.generate(self.model, self.settings.made, steps=steps)
            return
        self.plain.eval()
        with torch.no_grad(), self.autocast() if name == "same" else contextlib.nullcontext():
            self.plain.generate(self.settings.made, steps, self.TAU)
        self.plain.train()


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
    counts, made = [], settings.made
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
