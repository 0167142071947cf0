"""One step of SimCLR on the same encoder, written again: patches, ViT, projection, NT-Xent, AdamW."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import mage_kit as mk
from mage_kit.optimizers import set_lr
from mage_kit.studies.study_files import load_study
from mage_kit.studies.study_trials import recipe_of
from mage_kit.training.loader import Order, batches
from tests.loops import loop_of
from tests.reference.plain_classifier import Tensors, first_adamw_step, plain_attention, plain_linear, plain_norm

IMAGES, PATCH, TEMPERATURE = 12, 8, 0.2
SMALL = [
    'model.encoder={"kind": "vit", "dim": 32, "depth": 2, "heads": 2, "dropout": 0.0}', "model.embedding.dropout=0",
    "model.losses[0].hidden=24", "model.losses[0].output=8", f"training.batch={IMAGES}",
]  # fmt: skip


def plain_features(weights: Tensors, images: Tensor) -> Tensor:
    """Class token and every patch, normalised, through two blocks; the mean of the patches."""
    count, _, side, _ = images.shape
    cut = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).reshape(count, (side // PATCH) ** 2, PATCH * PATCH)
    patches = plain_linear((cut - 0.2) / 0.3, weights, "embedding.projection")
    rows = torch.cat([weights["embedding.class_token"].expand(count, 1, -1), patches], dim=1)
    x = plain_norm(rows + weights["embedding.positions_ND"], weights, "embedding.norm")
    for number in range(2):
        name = f"encoder.blocks.{number}"
        x = x + plain_attention(plain_norm(x, weights, f"{name}.norm1"), weights, f"{name}.attn", 2)
        hidden = plain_linear(plain_norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1")
        x = x + plain_linear(F.gelu(hidden), weights, f"{name}.mlp.fc2")
    return plain_norm(x, weights, "encoder.norm")[:, 1:].mean(dim=1)


def plain_projection(weights: Tensors, features: Tensor) -> Tensor:
    """Linear, LayerNorm with torch's eps, GELU, linear, length 1."""
    hidden = plain_linear(features, weights, "losses.0.projection.0")
    centred = hidden - hidden.mean(dim=1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    hidden = scaled * weights["losses.0.projection.1.weight"] + weights["losses.0.projection.1.bias"]
    out = plain_linear(F.gelu(hidden), weights, "losses.0.projection.3")
    return out / out.square().sum(dim=1, keepdim=True).sqrt()


def nt_xent(rows: Tensor) -> Tensor:
    """SimCLR's equation 1, mean over the 2N rows: view 1 of image i is row i, view 2 is row N + i."""
    total, count = rows.new_zeros(()), len(rows)
    for anchor in range(count):
        similar = (rows @ rows[anchor]) / TEMPERATURE
        others = torch.cat([similar[:anchor], similar[anchor + 1 :]])
        total = total + others.exp().sum().log() - similar[(anchor + count // 2) % count]
    return total / count


def test_a_step_equals_the_derivation() -> None:
    recipe = recipe_of(load_study("supp-7"), "SimCLR", "digits", SMALL)(3)
    loop = loop_of(recipe, parts=mk.build(recipe))
    model = loop.players[0].module
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dataset = recipe.build_dataset()
    (batch,) = batches(dataset, Order(len(dataset), IMAGES, 0), 5, 6, recipe.seed, 0)
    loss = float(sum(loop.gradients(batch, 5)))
    (player,) = loop.players
    set_lr(player.optimizer, player.rate.peak)
    player.optimizer.step()

    images = batch.images_TCHW.float() / 255
    assert len(images) == 2 * IMAGES and not torch.equal(images[:IMAGES], images[IMAGES:]), "two views of each"
    weights = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    total = nt_xent(plain_projection(weights, plain_features(weights, images)))
    torch.testing.assert_close(torch.tensor(loss), total.detach(), rtol=1e-5, atol=1e-6)
    names = [name for name in start if name != "embedding.mask_token"]  # no token is masked
    gradients = torch.autograd.grad(total, [weights[name] for name in names])
    now, peak = model.state_dict(), 3e-3 * IMAGES / 256
    for name, gradient in zip(names, gradients, strict=True):
        decay = 0.05 if start[name].ndim > 1 else 0.0
        expected = first_adamw_step(start[name], gradient, peak, decay, (0.9, 0.95))
        # Adam's first step is the gradient's sign: where that is nearly 0 its size follows from rounding.
        clear = gradient.abs() > 1e-6
        assert clear.float().mean() > (0.6 if name.endswith("qkv.bias") else 0.9), name  # of keys' biases it is 0
        torch.testing.assert_close(now[name][clear], expected[clear], rtol=1e-4, atol=2e-6)
