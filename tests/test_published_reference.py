"""The reference that benchmarks measure against computes the same function as mage_kit: loss and gradients."""

from __future__ import annotations

import torch

import mage_kit as mk
from benchmarks.published import PublishedMage
from mage_kit.legacy.mage import MageLayout
from mage_kit.losses import BatchMasks
from tests import build


def test_loss_and_gradients_are_ours() -> None:
    """To 1e-4 in float32, dropout 0, the same weights, masks from the same noise."""
    tokenizer = build.vqgan(channels=3, base_channels=32, norm_groups=32)
    model = build.mage(tokenizer, dropout=0.0, losses=[mk.MaskedCrossEntropy(label_smoothing=0.1)])
    with torch.no_grad():
        for _, parameter in model.trainable():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    plain = PublishedMage(model)
    ids = build.tokens(model, 4)
    noise = torch.rand(4, 16, generator=torch.Generator().manual_seed(2))
    ratio_B = torch.full((4,), 0.7, dtype=torch.float64)
    plan = model.plan(ratio_B, noise)
    masks = BatchMasks(ratio_B, int(model.n_masked(ratio_B).sum()), 1)
    ours = model(ids, plan, masks).terms[0].total / masks.masked_tokens
    theirs = plain.loss(ids, 0.7, noise)
    ours.backward()
    theirs.backward()
    assert abs(ours.item() - theirs.item()) < 1e-4 * abs(theirs.item())
    own = {"token_emb.word_embeddings": "word", "token_emb.position_embeddings": "place",
           "token_emb.LayerNorm": "first_norm", "decoder_pos_embed_learned": "decoder_place"}  # fmt: skip
    gradients, compared = dict(plain.named_parameters()), 0
    parameters = dict(model.trainable())
    for pair in MageLayout().pairs(model):
        if pair.ours in parameters:
            name = pair.theirs.removeprefix("mlm_layer.")
            for published, plainly in own.items():
                name = name.replace(published, plainly)
            expected = gradients[name].grad
            ours_there = pair.form.write(parameters[pair.ours].grad, None)
            assert float((ours_there - expected).norm() / expected.norm()) < 1e-4, pair.ours
            compared += 1
    assert compared == len(parameters)


def test_it_generates_images() -> None:
    model = build.mage(build.vqgan(channels=3, base_channels=32, norm_groups=32)).eval()
    assert PublishedMage(model).eval().generate(2, 4, 6.0).shape == (2, 3, 16, 16)
