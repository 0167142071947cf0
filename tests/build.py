"""Small real models for tests: every size is an argument, every part can be replaced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import mage_kit as mk
from mage_kit.losses import BatchMasks


def vqgan(channels: int = 1, grid: tuple[int, int] = (4, 4), codes: int = 32, **changes: Any) -> mk.VQGAN:
    """A VQGAN with two down-samplings, whose codes are spread enough that images differ in tokens."""
    settings: dict[str, Any] = {
        "image_size": (grid[0] * 4, grid[1] * 4),
        "channels": channels,
        "base_channels": 8,
        "multipliers": (1, 1, 2),
        "res_blocks": 1,
        "norm_groups": 4,
        "quantizer": mk.QUANTIZERS.parse({"kind": "ema", "codes": codes, "width": 4}),
    }
    tokenizer = mk.VQGAN(**{**settings, **changes})
    with torch.no_grad():
        tokenizer.quantize.embedding.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    return tokenizer


def taming(kind: type[mk.CodebookTokenizer] = mk.TamingVQGAN, channels: int = 1) -> mk.CodebookTokenizer:
    """A tokenizer in taming's form, 4 x 4 tokens of 32 codes."""
    tokenizer = kind(
        image_size=(16, 16), channels=channels, base_channels=8, multipliers=(1, 1, 2), res_blocks=1, norm_groups=4,
        quantizer=mk.QUANTIZERS.parse({"kind": "gradient", "codes": 32, "width": 4, "unit": kind is mk.LlamaGenVQ}),
        z_channels=8,
    )  # fmt: skip
    with torch.no_grad():
        tokenizer.quantize.embedding.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    return tokenizer


def llamagen(channels: int = 1) -> mk.CodebookTokenizer:
    """The same in LlamaGen's form."""
    return taming(mk.LlamaGenVQ, channels)


def mage(tokenizer: mk.Tokenizer | None = None, seed: int = 0, **changes: Any) -> mk.Mage:
    """A Mage of width 32; `changes` replace its parts."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = tokenizer or vqgan()
        dropout = changes.pop("dropout", 0.1)
        encoder = changes.pop("encoder", None) or mk.ViTEncoder(dim=32, depth=2, heads=4, dropout=dropout)
        size = tokenizer.spec.grid.size
        decoder = changes.pop("decoder", None) or mk.ViTDecoder(32, size, dim=24, depth=1, heads=4, dropout=dropout)
        default = mk.MaskedCrossEntropy() if tokenizer.spec.discrete else mk.MaskedMSE()
        losses = changes.pop("losses", None) or [default]
        embedding = changes.pop("embedding", mk.EmbeddingConfig(dropout=dropout))
        return mk.Mage(
            tokenizer=tokenizer, encoder=encoder, decoder=decoder, losses=losses, embedding=embedding, **changes
        )


def sharpen(model: mk.Mage) -> mk.Mage:
    """Let predictions depend on what the decoder sees, its label above all, as after training."""
    with torch.no_grad():
        for parameter in (*model.decoder.parameters(), *model.head.parameters()):
            parameter.mul_(3)
        if isinstance(model.decoder, mk.ClassViTDecoder):
            model.decoder.class_rows.weight.mul_(30)
    return model


def images(model: mk.Mage, count: int, seed: int = 0) -> Tensor:
    """Random images of the model's size."""
    shape = (count, model.tokenizer.channels, *model.tokenizer.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def tokens(model: mk.Mage, count: int, seed: int = 0) -> Tensor:
    """Random tokens of the model's kind."""
    random = torch.Generator().manual_seed(seed)
    spec = model.spec
    if spec.codes:
        return torch.randint(spec.codes, (count, spec.grid.size), generator=random)
    return torch.rand(count, spec.grid.size, spec.width, generator=random)


def masked_pass(model: mk.Mage, values: Tensor, ratio_B: Tensor, seed: int = 0, views: int = 1) -> Any:
    """Plan and run one training pass; return (output, plan, masks)."""
    noise = torch.rand(len(values), model.spec.grid.size, generator=torch.Generator().manual_seed(seed))
    plan = model.plan(ratio_B, noise)
    masks = BatchMasks(ratio_B, int(model.n_masked(ratio_B).sum()), views)
    return model(values, plan, masks), plan, masks
