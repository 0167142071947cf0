"""The pre-trained model against the recording: sizes, tokens, masks, features, logits, loss, gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from mage_kernels import full_plan
from torch import Tensor

import mage_kit as mk
from mage_kit.legacy.mage_layout import MageLayout
from mage_kit.losses import BatchMasks
from tests.parity.recording import CLOSE, Recording, distance, recording


@pytest.fixture
def recorded() -> Recording:
    return recording()


def test_sizes_read_from_the_shapes(recorded: Recording) -> None:
    sizes, model = recorded.sizes, recorded.model
    tokenizer = model.tokenizer
    assert isinstance(tokenizer, mk.VQGAN)
    assert {
        "base_channels": tokenizer.base_channels,
        "channel_multipliers": list(tokenizer.multipliers),
        "res_blocks": tokenizer.res_blocks,
        "codebook_size": tokenizer.quantize.codes,
        "codebook_dim": tokenizer.quantize.width,
        "image_size": tokenizer.image_size[0],
    } == sizes["vqgan"]
    for part, name in ((model.encoder, "encoder"), (model.decoder, "decoder")):
        assert {"dim": part.dim, "depth": part.depth, "heads": part.heads} == sizes[name]


def test_legacy_vocabulary(recorded: Recording) -> None:
    """Codes, mask row and class row stand where the recording says; no other row is ours."""
    sizes = recorded.sizes
    (pair,) = (pair for pair in MageLayout().pairs(recorded.model) if pair.ours == "embedding.table")
    codes = sizes["vqgan"]["codebook_size"]
    assert pair.form.rows == (*range(codes), sizes["mask_token_label"], sizes["fake_class_label"])
    assert pair.form.total == sizes["vocab_size"]


def test_tokenizer(recorded: Recording) -> None:
    tokenizer, tensors = recorded.model.tokenizer, recorded.tensors
    assert isinstance(tokenizer, mk.VQGAN)
    with torch.no_grad():
        assert distance(tokenizer.feature_map(recorded.images), tensors["vqgan_encoder_features"]) < CLOSE
        assert torch.equal(tokenizer.encode(recorded.images), recorded.ids)
        # By one thread float32 convolutions go by Winograd's way, which rounds more than the limit: 1.3e-5.
        picture = copy.deepcopy(tokenizer).double().decode(recorded.ids[:1])
        assert distance(picture, tensors["reconstruction_image0"]) < CLOSE


def recorded_pass(recorded: Recording) -> tuple[mk.Mage, object, BatchMasks]:
    """The model with the recording's ratio, drop and smoothing, and the plan of its noise."""
    model, sizes = recorded.model, recorded.sizes
    model.mask_ratio, model.drop = mk.FixedRatio(ratio=sizes["masking_ratio"]), sizes["drop_ratio"]
    model.losses[0].label_smoothing = sizes["label_smoothing"]
    ratio_B = torch.full((len(recorded.ids),), sizes["masking_ratio"], dtype=torch.float64)
    plan = model.plan(ratio_B, recorded.tensors["mask_noise"])
    return model, plan, BatchMasks(ratio_B, int(model.n_masked(ratio_B).sum()), 1)


def test_masks(recorded: Recording) -> None:
    model, plan, _ = recorded_pass(recorded)
    assert torch.equal(plan.masked_BL, recorded.tensors["token_all_mask"][:, 1:].bool())
    assert torch.equal(plan.rank_BL < model.n_dropped, recorded.tensors["token_drop_mask"][:, 1:].bool())
    assert not bool(recorded.tensors["token_all_mask"][:, 0].any()), "the class position is never masked"


def test_encoder_and_logits(recorded: Recording) -> None:
    model, plan, _ = recorded_pass(recorded)
    with torch.no_grad():
        latents = model.encoder.norm(model.encode(recorded.ids, plan))
        logits = model.head(model.decode(latents, plan), model.embedding)
    assert distance(latents, recorded.tensors["encoder_output"]) < CLOSE
    # stored in half precision, with the class position; image 0's first positions also in float32, all rows
    assert distance(logits, recorded.tensors["decoder_logits_codebook"][:, 1:].float()) < 1e-3
    first = recorded.tensors["decoder_logits_row0"][1:, : model.spec.codes]
    assert distance(logits[0, : len(first)], first) < CLOSE


def test_loss_and_gradients(recorded: Recording) -> None:
    model, plan, masks = recorded_pass(recorded)
    model.zero_grad()
    output = model(recorded.ids, plan, masks)
    loss = output.terms[0].total / masks.masked_tokens
    assert abs(loss.item() - recorded.sizes["loss"]) / recorded.sizes["loss"] < CLOSE
    loss.backward()
    gradients = published_gradients(model)
    compared = 0
    for name, expected in recorded.tensors.items():
        if name.startswith("grad."):
            assert distance(gradients[name.removeprefix("grad.")], expected) < CLOSE, name
            compared += 1
    assert compared > 0
    for name, norm in recorded.sizes["gradient_norms"].items():
        assert abs(float(gradients[name].double().norm()) - norm) / norm < CLOSE, name
    ours = {name for name, _ in model.trainable()}
    assert {pair.ours for pair in MageLayout().pairs(model) if pair.theirs in recorded.sizes["gradient_norms"]} == ours


def published_gradients(model: mk.Mage) -> dict[str, Tensor]:
    """Our gradients under the published names, in the published shapes."""
    parameters = dict(model.trainable())
    return {
        pair.theirs: pair.form.write(parameters[pair.ours].grad, None)
        for pair in MageLayout().pairs(model)
        if pair.ours in parameters
    }


def test_features(recorded: Recording) -> None:
    model = recorded.model
    nothing = torch.zeros_like(recorded.ids, dtype=torch.bool)
    with torch.no_grad():
        whole = model.encoder.norm(model.encode(recorded.ids, full_plan(nothing)))
        pooled = model.block_features(recorded.ids)
    assert distance(whole, recorded.tensors["encoder_output_unmasked"]) < CLOSE
    expected = recorded.tensors["pooled_features_per_block"]
    assert pooled.shape == expected.shape
    for block, (ours, theirs) in enumerate(zip(pooled, expected, strict=True)):
        assert distance(ours, theirs) < CLOSE, f"block {block}"
    assert distance(model.features(recorded.images), expected[-1]) < CLOSE
