"""What classifiers are trained with, each part against another way to the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import mage_kit as mk
from mage_kit.images.randaugment import OPERATIONS, RandAugment, draw_operations, randaugment
from mage_kit.layers.batch_norm import BatchNorm
from mage_kit.layers.blocks import Block
from mage_kit.optimizers import set_lr
from mage_kit.optimizers.layer_rates import rate_of
from mage_kit.training.tasks.mixing import Mix, draw_mix, mix_images, targets
from tests import build
from tests.reference.plain_classifier import plain_targets

# -- LARS --------------------------------------------------------------------------------------------------------


def test_lars_by_hand() -> None:
    """|w| = 5, |g| = 10: q = 0.001 x 5 / 10. Two steps of momentum 0.9; biases take plain momentum."""
    matrix, bias = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Parameter(torch.tensor([1.0]))
    optimizer = mk.LARS()({"matrix": matrix, "bias": bias})
    set_lr(optimizer, 2.0)
    matrix.grad, bias.grad = torch.tensor([[6.0, 8.0]]), torch.tensor([0.5])
    optimizer.step()
    torch.testing.assert_close(matrix.data, torch.tensor([[3.0 - 2 * 0.0005 * 6, 4.0 - 2 * 0.0005 * 8]]))
    torch.testing.assert_close(bias.data, torch.tensor([1.0 - 2 * 0.5]))
    matrix.grad, bias.grad = torch.tensor([[0.0, 1.0]]), torch.tensor([0.0])
    norm = float(matrix.detach().norm())
    wanted = matrix.detach() - 2 * (0.9 * 0.0005 * torch.tensor([[6.0, 8.0]]) + 0.001 * norm * matrix.grad)
    optimizer.step()
    torch.testing.assert_close(matrix.data, wanted)
    torch.testing.assert_close(bias.data, torch.tensor([0.0 - 2 * 0.9 * 0.5]))


def test_lars_where_a_norm_is_zero() -> None:
    """A matrix of zeros takes the plain gradient, as the published rule has it: it would never move otherwise."""
    matrix = nn.Parameter(torch.zeros(1, 2))
    matrix.grad = torch.tensor([[1.0, -1.0]])
    _lars_step(matrix)
    torch.testing.assert_close(matrix.data, torch.tensor([[-0.1, 0.1]]))
    other = nn.Parameter(torch.ones(1, 2))
    other.grad = torch.zeros(1, 2)
    _lars_step(other, weight_decay=0.5)  # the decay alone is 0.5 w: q = 0.001 |w| / |0.5 w|
    torch.testing.assert_close(other.data, torch.ones(1, 2) - 0.1 * 0.002 * 0.5)


def _lars_step(parameter: nn.Parameter, weight_decay: float = 0.0) -> None:
    optimizer = mk.LARS(weight_decay=weight_decay)({"matrix": parameter})
    set_lr(optimizer, 0.1)
    optimizer.step()


# -- layer-wise rates --------------------------------------------------------------------------------------------


def test_rates_by_layer() -> None:
    """d = 0.65, 12 blocks: embedding 0.65^13, block 0 0.65^12, block 11 0.65, norm and head 1."""
    assert rate_of("embedding.table", 12, 0.65) == pytest.approx(0.65**13)
    assert rate_of("module.embedding.positions_ND", 12, 0.65) == pytest.approx(0.65**13)
    assert rate_of("encoder.blocks.0.attn.qkv.weight", 12, 0.65) == pytest.approx(0.65**12)
    assert rate_of("encoder.blocks.11.mlp.fc2.bias", 12, 0.65) == pytest.approx(0.65)
    assert rate_of("norm.weight", 12, 0.65) == rate_of("head.weight", 12, 0.65) == 1.0


def test_groups_hold_every_parameter_once_and_step_at_their_rate() -> None:
    model = classifier()
    named = dict(model.trainable())
    groups = mk.AdamW(weight_decay=0.3)(named, layer_decay=0.5).param_groups
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in named.values())
    for group in groups:
        assert all((p.ndim <= 1) == (group["weight_decay"] == 0.0) for p in group["params"])
    optimizer = torch.optim.SGD([{"params": group["params"], "rate": group["rate"]} for group in groups], lr=1.0)
    set_lr(optimizer, 0.1)
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    for parameter in named.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in named.items():
        moved = 0.1 * rate_of(name, model.blocks, 0.5)
        torch.testing.assert_close(before[name] - parameter, torch.full_like(parameter, moved), rtol=1e-3, atol=1e-6)


def test_the_rate_ends_where_it_is_asked_to() -> None:
    rates = [mk.Rate(1.0, 10, 0.2).at(step, 100) for step in range(101)]
    assert rates[0] == 0 and rates[5] == 0.5 and rates[10] == 1.0 and rates[100] == pytest.approx(0.2)
    assert rates[55] == pytest.approx(0.6), "half way, half between"
    assert rates[10:] == sorted(rates[10:], reverse=True)


# -- drop path, batch norm ---------------------------------------------------------------------------------------


def classifier(**changes: object) -> mk.MageClassifier:
    return mk.MageClassifier(
        tokenizer=build.vqgan(), encoder=mk.ViTEncoder(dim=32, depth=3, heads=4, dropout=0.0), classes=7, **changes
    )


def test_drop_path_grows_with_depth_and_keeps_the_mean() -> None:
    model = classifier(drop_path=0.4)
    assert [block.drop_path for block in model.encoder.blocks] == pytest.approx([0.0, 0.2, 0.4])
    block = Block(8, 2, 2.0, 0.0)
    block.drop_path = 0.25
    x = torch.randn(4000, 1, 8)
    block.attn = nn.Identity()
    block.norm1 = nn.Identity()
    added = block.train()._survived(x)
    kept = added.abs().sum(dim=(1, 2)) > 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    torch.testing.assert_close(added[kept], x[kept] / 0.75)
    assert torch.equal(block.eval()._survived(x), x)


def test_batch_norm_is_torchs_without_affine() -> None:
    ours, theirs = BatchNorm(5), nn.BatchNorm1d(5, affine=False, eps=1e-6)
    for seed in range(3):
        x = torch.randn(16, 5, generator=torch.Generator().manual_seed(seed)) * 3 + 1
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    torch.testing.assert_close(ours.variance, theirs.running_var)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_probes_head_alone_is_trained_and_the_embedding_still_drops_out() -> None:
    model = classifier(head="probe", embedding=mk.EmbeddingConfig(dropout=0.3))
    model.freeze_encoder()
    model.train()
    assert {name for name, _ in model.trainable()} == {"head.weight", "head.bias"}
    tokens = torch.randint(32, (6, 16))
    assert not model.encoder.training and model.embedding.training and model.batch_norm.training
    assert not torch.equal(model.pooled(tokens), model.pooled(tokens)), "dropout after the embedding"
    pooled = model.pooled(tokens)
    torch.testing.assert_close(pooled.mean(dim=0), torch.zeros(32), atol=1e-5, rtol=0)
    assert float(model.head.weight.detach().std()) == pytest.approx(0.01, rel=0.2)


# -- mixup and cutmix --------------------------------------------------------------------------------------------


def test_mixup_by_hand() -> None:
    images = torch.rand(4, 3, 5, 6)
    mixed = mix_images(images, Mix(0.7))
    for place in range(4):
        torch.testing.assert_close(mixed[place], 0.7 * images[place] + 0.3 * images[place ^ 1])
    labels = [2, 0, 1, 1]
    torch.testing.assert_close(targets(torch.tensor(labels), 3, 0.1, Mix(0.7)), plain_targets(labels, 3, 0.1, 0.7))
    torch.testing.assert_close(targets(torch.tensor(labels), 3, 0.0), torch.eye(3)[labels])


def test_cutmix_by_hand() -> None:
    images = torch.rand(2, 1, 6, 8)
    mix = Mix(1 - 2 * 3 / 48, (1, 3, 4, 7))
    mixed = mix_images(images, mix)
    for place in range(2):
        for row in range(6):
            for column in range(8):
                other = 1 <= row < 3 and 4 <= column < 7
                assert mixed[place, 0, row, column] == images[place ^ 1 if other else place, 0, row, column]


def test_how_steps_are_mixed() -> None:
    """One of the two a step; shares follow the beta distributions; a box counts by what of it lies in the image."""
    random = np.random.default_rng(0)
    drawn = [draw_mix((16, 16), 0.8, 1.0, 0.5, random) for _ in range(4000)]
    cuts = [mix for mix in drawn if mix.box is not None]
    assert len(cuts) / 4000 == pytest.approx(0.5, abs=0.03)
    shares = np.array([mix.share for mix in drawn if mix.box is None])
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.06), "variance of Beta(0.8, 0.8)"
    for mix in cuts:
        top, bottom, left, right = mix.box  # type: ignore[misc]  # there is one
        assert 0 <= top <= bottom <= 16 and 0 <= left <= right <= 16
        assert mix.share == pytest.approx(1 - (bottom - top) * (right - left) / 256)
    assert all(draw_mix((8, 8), 0.8, 0.0, 0.5, random).box is None for _ in range(50))
    assert all(draw_mix((8, 8), 0.0, 1.0, 0.5, random).box is not None for _ in range(50))


# -- RandAugment -------------------------------------------------------------------------------------------------


def photo(channels: int = 3, side: int = 40) -> Image.Image:
    random = np.random.default_rng(3)
    array = random.integers(0, 256, (side, side, channels), dtype=np.uint8)
    return Image.fromarray(array[..., 0] if channels == 1 else array)


def applied(name: str, share: float, backwards: bool = False, image: Image.Image | None = None) -> np.ndarray:
    return np.asarray(OPERATIONS[name](image or photo(), share, backwards)).astype(int)


def test_operations_on_values_by_formula() -> None:
    given = np.asarray(photo()).astype(int)
    assert np.array_equal(applied("invert", 0.3), 255 - given)
    bits = 4 - int(4 * 0.9)
    assert np.array_equal(applied("posterize", 0.9), given // 2 ** (8 - bits) * 2 ** (8 - bits))
    limit = 256 - int(256 * 0.9)
    assert np.array_equal(applied("solarize", 0.9), np.where(given < limit, given, 255 - given))
    assert np.array_equal(applied("solarize_add", 0.5), np.where(given < 128, np.minimum(255, given + 55), given))
    for backwards, factor in ((False, 1.81), (True, 0.19)):
        assert np.abs(applied("brightness", 0.9, backwards) - np.clip(given * factor, 0, 255)).max() <= 1
    grey = given @ np.array([0.299, 0.587, 0.114])
    mean = int(grey.mean() + 0.5)
    assert np.abs(applied("contrast", 0.5) - np.clip(mean + 1.45 * (given - mean), 0, 255)).max() <= 2
    assert (
        np.abs(applied("color", 0.5) - np.clip(grey[..., None] + 1.45 * (given - grey[..., None]), 0, 255)).max() <= 2
    )
    ramp = Image.fromarray(np.tile(np.linspace(40, 200, 40).astype(np.uint8), (40, 1)))
    stretched = applied("auto_contrast", 0.1, image=ramp)
    assert stretched.min() == 0 and stretched.max() == 255
    flat = applied("equalize", 0.1, image=ramp)
    assert np.all(np.diff(flat[0]) >= 0) and flat.max() > 240


def test_operations_that_move() -> None:
    """By whole pixels, where the numbers give them; what comes in from outside is grey."""
    given = np.asarray(photo()).astype(int)
    shift = round(0.45 * 0.5 * 40)
    assert np.abs(applied("shift_x", 0.5)[:, : 40 - shift] - given[:, shift:]).max() <= 1
    assert np.all(applied("shift_x", 0.5)[:, -shift + 1 :] == 128)
    assert np.abs(applied("shift_y", 0.5, backwards=True)[shift:] - given[: 40 - shift]).max() <= 1
    marked = np.zeros((41, 41), dtype=np.uint8)
    marked[20, 35:38] = 255
    turned = applied("rotate", 1.0, image=Image.fromarray(marked))
    row, column = (value.mean() for value in np.nonzero(turned > 128))
    angle = np.degrees(np.arctan2(20 - row, column - 20))
    assert angle == pytest.approx(30, abs=3), "30 degrees at the highest level"
    marked[:] = 0
    marked[:, 20] = 255
    sheared = applied("shear_x", 1.0, image=Image.fromarray(marked))
    columns = [int(np.argmax(line)) for line in sheared[:30:5]]
    assert np.allclose(np.diff(columns), -0.3 * 5, atol=0.6), "0.3 columns a row"


def test_every_operation_keeps_size_and_mode_and_grows_with_its_level() -> None:
    for name in OPERATIONS:
        for channels in (1, 3):
            image = photo(channels)
            made = OPERATIONS[name](image, 0.9, True)
            assert made.size == image.size and made.mode == image.mode, name
    smooth = photo(3, 4).resize((80, 80), Image.Resampling.BICUBIC)
    plain = np.asarray(smooth).astype(int)
    for name in ("rotate", "shear_x", "shear_y", "shift_x", "shift_y", "brightness", "color", "contrast", "solarize"):
        changes = [np.abs(applied(name, share, image=smooth) - plain).mean() for share in (0.1, 0.5, 0.9)]
        assert changes == sorted(changes) and changes[0] < changes[2], (name, changes)


def test_what_is_drawn_for_an_image() -> None:
    config, random = RandAugment(), np.random.default_rng(0)
    drawn = [draw_operations(config, random) for _ in range(3000)]
    counts = np.bincount([len(each) for each in drawn], minlength=3) / 3000
    assert counts == pytest.approx([0.25, 0.5, 0.25], abs=0.03), "two drawn, each carried out half of the time"
    flat = [operation for each in drawn for operation in each]
    assert {operation.name for operation in flat} == set(OPERATIONS)
    levels = np.array([operation.level for operation in flat])
    assert levels.max() == 10.0 and np.median(levels) == pytest.approx(9.0, abs=0.05)
    assert np.std(levels[levels < 9]) == pytest.approx(0.5 * np.sqrt(1 - 2 / np.pi), rel=0.1), "half of a normal one"
    assert np.mean([operation.backwards for operation in flat]) == pytest.approx(0.5, abs=0.03)


def test_randaugment_follows_image_and_epoch_and_refuses_alpha() -> None:
    data = mk.Digits(image_size=(32, 32), channels=1, augment=mk.Augment(randaugment=RandAugment(probability=1.0)))
    plain = mk.Digits(image_size=(32, 32), channels=1, augment=mk.Augment())
    first, again = data.sample(3, 5, 7).views[0], data.sample(3, 5, 7).views[0]
    assert np.array_equal(first, again) and not np.array_equal(first, data.sample(3, 6, 7).views[0])
    assert not np.array_equal(first, plain.sample(3, 5, 7).views[0])
    assert np.array_equal(data.still(3).views[0], plain.still(3).views[0]), "evaluation views are left alone"
    with pytest.raises(ValueError, match="randaugment: works on grey and RGB images, not on RGBA"):
        randaugment(Image.new("RGBA", (4, 4)), RandAugment(), np.random.default_rng(0))


def test_evaluation_views_show_the_centre_asked_for() -> None:
    """A share of 256 / 292 is "short side to 292, then the centre 256" in one step."""
    from mage_kit.images.transforms import centre_view

    image = photo(3, 8).resize((584, 730), Image.Resampling.BICUBIC)
    one = np.asarray(centre_view(image, (256, 256), "bicubic", 256 / 292)).astype(int)
    small = image.resize((292, 365), Image.Resampling.BICUBIC)
    two = np.asarray(small.crop((18, 54, 274, 310))).astype(int)
    assert np.abs(one - two).mean() < 2.0, "half a pixel's rounding apart"
