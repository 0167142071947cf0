"""The reference that benchmarks measure against computes the same function as mage_kit: loss and gradients."""

from __future__ import annotations

import math

import torch

import mage_kit as mk
from benchmarks.published import PublishedMage
from mage_kit.legacy.mage import MageLayout
from mage_kit.losses import BatchMasks
from mage_kit.training.optim import clip_gradients
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


def _curve(side: str, model: mk.Mage, ids: torch.Tensor, seed: int, steps: int = 200) -> float:
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
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(batch, model.plan(ratio_B, noise), masks).terms[0].total / masks.masked_tokens
        else:
            loss = module.loss(batch, 0.7, noise)  # type: ignore[operator]
        loss.backward()
        clip_gradients(values, 3.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return sum(losses[-40:]) / 40


def test_two_hundred_steps_end_at_the_same_loss() -> None:
    """Ours in bfloat16 with cheap dropout, the reference in float32 with torch's: within the noise of the draws."""
    from sklearn.datasets import load_digits

    tokenizer = build.vqgan(channels=3, base_channels=32, norm_groups=32)
    pixels = (
        torch.from_numpy(load_digits().images[:400]).float().div(16).repeat_interleave(2, 1).repeat_interleave(2, 2)
    )
    images = pixels[:, None].expand(-1, 3, -1, -1).contiguous()
    tokenizer.quantize.embedding.weight.data.copy_(tokenizer.features(images).flatten(0, 1)[:: 400 * 16 // 32][:32])
    ids = tokenizer.encode(images)
    ends = {
        side: [_curve(side, build.mage(tokenizer, dropout=0.1), ids, seed) for seed in (1, 2, 3)]
        for side in ("ours", "published")
    }
    means = {side: sum(values) / 3 for side, values in ends.items()}
    noise = max(max(values) - min(values) for values in ends.values())
    assert means["published"] < math.log(32) - 0.15, "nothing was learnt"
    assert abs(means["ours"] - means["published"]) < max(noise, 0.01), (ends, noise)
