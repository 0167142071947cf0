"""The reference that benchmarks measure against computes the same function as mage_kit: loss and gradients."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from sklearn.datasets import load_digits

import mage_kit as mk
from benchmarks.published import PublishedMage
from mage_kit.legacy.mage_layout import MageLayout
from mage_kit.losses import BatchMasks
from mage_kit.optimizers import take_step
from mage_kit.training.clipping import clip_divisor, gradient_norm
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


def test_its_generation_computes_our_logits_and_keeps_our_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build.mage(build.vqgan(channels=3, base_channels=32, norm_groups=32)).eval()
    plain = PublishedMage(model).eval()
    ids, masked = build.tokens(model, 3), torch.rand(3, 16, generator=torch.Generator().manual_seed(1)) < 0.6
    seen: list[int] = []
    logits = plain.logits

    def spy(rows: torch.Tensor, drop: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        seen.append(int(hidden[0].sum()))
        return logits(rows, drop, hidden)

    with torch.no_grad():
        rows = torch.cat([torch.full((3, 1), plain.class_id), torch.where(masked, plain.mask_id, ids)], dim=1)
        hidden = torch.nn.functional.pad(masked, (1, 0))
        found = logits(rows, torch.zeros_like(hidden), hidden)[:, 1:, : plain.codes]
        torch.testing.assert_close(found, model.logits(ids, masked), atol=1e-4, rtol=1e-4)
        monkeypatch.setattr(plain, "logits", spy)
        assert plain.generate(2, 6, 6.0).shape == (2, 3, 16, 16)
    assert seen == [16, *mk.CosineSchedule().counts(16, 6)[:-1]]


def _curve(side: str, model: mk.Mage, ids: torch.Tensor, seed: int, fast: bool = False, steps: int = 200) -> float:
    """Train on the same batches and masks; the mean loss of the last 40 steps. Dropout follows the seed."""
    module: torch.nn.Module = model.train() if side == "ours" else PublishedMage(model).train()
    values = [value for name, value in module.named_parameters() if not name.startswith("tokenizer.")]
    optimizer = torch.optim.AdamW(values, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05)
    random, losses = torch.Generator().manual_seed(5), []
    torch.manual_seed(seed)
    for _ in range(steps):
        batch = ids[torch.randint(len(ids), (16,), generator=random)]
        noise = torch.rand(16, ids.shape[1], generator=random)
        if side == "ours":
            ratio_B = torch.full((16,), 0.7, dtype=torch.float64)
            masks = BatchMasks(ratio_B, int(model.n_masked(ratio_B).sum()), 1)
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                loss = model(batch, model.plan(ratio_B, noise), masks).terms[0].total / masks.masked_tokens
        else:
            loss = module.loss(batch, 0.7, noise)  # type: ignore[operator]
        loss.backward()
        take_step(optimizer, divisor=clip_divisor(gradient_norm(values), 3.0))
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return statistics.mean(losses[-40:])


@pytest.fixture(scope="module")
def digit_tokens() -> tuple[mk.VQGAN, torch.Tensor]:
    """A tokenizer whose codes are features of digits, and the digits' tokens."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = build.vqgan(channels=3, base_channels=32, norm_groups=32)
    pixels = torch.from_numpy(load_digits().images[:400]).float().div(16)
    images = pixels.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].expand(-1, 3, -1, -1).contiguous()
    features_FW = tokenizer.features(images).detach().flatten(0, 1)
    tokenizer.quantize.embedding.weight.data.copy_(features_FW[:: len(features_FW) // 32][:32])
    return tokenizer, tokenizer.encode(images)


def test_two_hundred_steps_without_dropout_end_at_the_same_loss(digit_tokens: tuple[mk.VQGAN, torch.Tensor]) -> None:
    tokenizer, ids = digit_tokens
    ends = [
        _curve(side, build.mage(tokenizer, dropout=0.0), ids, 0, fast)
        for side, fast in (("published", False), ("ours", False), ("ours", True))
    ]
    assert ends[0] < math.log(32) - 0.15, "nothing was learnt"
    assert abs(ends[1] - ends[0]) < 1e-3 and abs(ends[2] - ends[0]) < 1e-2, ends


@pytest.mark.slow
def test_two_hundred_steps_with_dropout_end_within_its_noise(digit_tokens: tuple[mk.VQGAN, torch.Tensor]) -> None:
    """Ours in bfloat16 with cheap masks, the reference in float32 with torch's: four standard errors of the means."""
    tokenizer, ids = digit_tokens
    ours, theirs = (
        [_curve(side, build.mage(tokenizer, dropout=0.1), ids, seed, fast=True) for seed in range(4)]
        for side in ("ours", "published")
    )
    error = math.sqrt((statistics.variance(ours) + statistics.variance(theirs)) / 4)
    assert error < 0.02, "too noisy to tell anything"
    assert abs(statistics.mean(ours) - statistics.mean(theirs)) < max(4 * error, 0.01), (ours, theirs)
