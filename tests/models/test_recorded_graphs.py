"""Models recorded by torch.export serve any number of images, with the numbers of the model itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

import mage_kit as mk
from tests import build

Call = Callable[..., Tensor]
LARGEST = 4096  # images a batch that the recorded graph must allow: more than one chunk of distances would hold


class Method(nn.Module):
    """One method of a model as a module of its own, which is what torch.export takes."""

    def __init__(self, part: nn.Module, call: Call) -> None:
        super().__init__()
        self.part, self.call = part, call

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(self.part, *inputs)


def agree(part: nn.Module, call: Call, inputs: Callable[[int], tuple[Tensor, ...]], strict: bool = False) -> None:
    """Record a call with two images; run it with one, two and five, each time other ones."""
    batch = Dim("batch", min=1, max=LARGEST)
    shapes = {"inputs": tuple({0: batch} for _ in inputs(2))}
    with torch.no_grad():
        graph = export(Method(part, call), inputs(2), dynamic_shapes=shapes, strict=strict).module()
        for count in (1, 2, 5):
            found, wanted = graph(*inputs(count)), call(part, *inputs(count))
            assert found.shape == wanted.shape and found.dtype == wanted.dtype
            assert float((found.double() - wanted.double()).abs().max()) <= 1e-5, f"{count} images"


def partly_masked(model: mk.Mage) -> Callable[[int], tuple[Tensor, ...]]:
    def inputs(count: int) -> tuple[Tensor, ...]:
        random = torch.Generator().manual_seed(count)
        return build.tokens(model, count, seed=count), torch.rand(count, model.spec.grid.size, generator=random) < 0.5

    return inputs


MODELS: dict[str, Callable[[], mk.Mage]] = {
    "mage": build.mage,
    "many codes": lambda: build.mage(build.vqgan(codes=2**16)),
    "mask_token": lambda: build.mage(padding=mk.MaskTokenPadding(24)),
    "maskgit": lambda: build.mage(decoder=mk.LinearDecoder(32, 16, dim=24), drop=0.0),
    "mae": lambda: build.mage(mk.Patches(image_size=(16, 16), channels=1, patch=4)),
    "classes": lambda: build.mage(decoder=mk.ClassViTDecoder(32, 16, classes=3, dim=24, depth=1, heads=4)),
}


@pytest.mark.parametrize(("kind", "strict"), [*((kind, False) for kind in MODELS), ("mage", True)])
def test_logits(kind: str, strict: bool) -> None:
    model = MODELS[kind]().eval()
    agree(model, lambda part, ids, masked: part.logits(ids, masked), partly_masked(model), strict)


@pytest.mark.parametrize("kind", ["mage", "many codes", "mae"])
def test_features_of_images(kind: str) -> None:
    """Through the tokenizer; the mode is left as it is, so the model is in evaluation mode before."""
    model = MODELS[kind]().eval()
    agree(model, lambda part, images: part.features(images), lambda count: (build.images(model, count, count),))


@pytest.mark.parametrize("form", ["matmul", "sdpa"])
def test_attention_forms(form: Any) -> None:
    model = build.mage().eval()
    model.set_attention(form)
    agree(model, lambda part, ids, masked: part.logits(ids, masked), partly_masked(model))


def test_block_features() -> None:
    model = build.mage().eval()
    agree(model, lambda part, ids: part.block_features(ids), lambda count: (build.tokens(model, count, count),))


@pytest.mark.parametrize("head", ["linear", "probe"])
def test_a_classifier(head: Any) -> None:
    model = mk.MageClassifier(
        tokenizer=build.vqgan(), encoder=mk.ViTEncoder(dim=32, depth=2, heads=4), classes=5, head=head
    ).eval()
    agree(model, lambda part, images: part.logits(images), lambda count: (build.images(model, count, count),))  # type: ignore[arg-type]  # sizes alike


@pytest.mark.parametrize(
    ("make", "strict"), [(build.vqgan, False), (build.vqgan, True), (build.taming, False), (build.llamagen, False)]
)
def test_tokenizers_both_ways(make: Callable[[], mk.CodebookTokenizer], strict: bool) -> None:
    tokenizer = make().eval()

    def images(count: int) -> tuple[Tensor]:
        return (torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(count)),)

    def ids(count: int) -> tuple[Tensor]:
        return (torch.randint(32, (count, 16), generator=torch.Generator().manual_seed(count)),)

    agree(tokenizer, lambda part, pixels: part.encode(pixels), images, strict)
    agree(tokenizer, lambda part, tokens: part.decode(tokens), ids, strict)
