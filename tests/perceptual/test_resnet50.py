"""ResNet50's logits against the network written again, from its tensors alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mage_kit as mk
from mage_kit.perceptual.resnet50 import ResNet50


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under torchvision's names, running statistics too."""
    torch.manual_seed(0)
    network = ResNet50()
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    path = tmp_path_factory.mktemp("resnet") / "resnet50.pth"
    torch.save(network.state_dict(), path)
    return path


def logits(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """He et al.'s ResNet50, version 1.5: the 3 x 3 convolution of a stage's first block has the stride."""

    def step(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, scale, shift = (
            state[f"{norm}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) * (var + 1e-5).rsqrt() * scale + shift

    x = F.interpolate(images, size=(224, 224), mode="bilinear", antialias=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x - mean[:, None, None]) / std[:, None, None]
    x = F.max_pool2d(step(x, "conv1", "bn1", 2).clamp_min(0), 3, 2, 1)
    for stage, blocks in ((1, 3), (2, 4), (3, 6), (4, 3)):
        for block in range(blocks):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = step(x, f"{at}.conv1", f"{at}.bn1").clamp_min(0)
            y = step(y, f"{at}.conv2", f"{at}.bn2", stride).clamp_min(0)
            y = step(y, f"{at}.conv3", f"{at}.bn3")
            if block == 0:
                x = step(x, f"{at}.downsample.0", f"{at}.downsample.1", stride)
            x = (x + y).clamp_min(0)
    return F.linear(x.mean(dim=(2, 3)), state["fc.weight"], state["fc.bias"])


def test_it_is_the_mean_squared_difference_of_logits(file: Path) -> None:
    distance = mk.ResNet50Logits(weights=str(file))
    random = torch.Generator().manual_seed(1)
    first, second = (torch.rand(2, 3, 96, 64, generator=random) for _ in range(2))
    state = torch.load(file, weights_only=True)
    by_hand = (logits(state, first) - logits(state, second)).square().mean(dim=1)
    torch.testing.assert_close(distance(first, second), by_hand, rtol=1e-4, atol=1e-6)
    assert float(distance(first, first).abs().max()) == 0


def test_another_networks_file_is_refused_in_a_sentence(file: Path, tmp_path: Path) -> None:
    state = torch.load(file, weights_only=True)
    state.pop("layer4.2.conv3.weight")
    torch.save(state, tmp_path / "less.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "vgg.pth")
    for name in ("less.pth", "vgg.pth"):
        with pytest.raises(mk.MageKitError, match="ResNet50"):
            mk.ResNet50Logits(weights=str(tmp_path / name))


def test_a_deeper_network_is_refused_though_it_has_all_of_its_tensors(file: Path, tmp_path: Path) -> None:
    """ResNet101 has ResNet50's names and shapes, and more blocks in the third stage."""
    state = torch.load(file, weights_only=True)
    blocks = {name.replace("layer3.5", "layer3.6"): value for name, value in state.items() if "layer3.5" in name}
    torch.save({**state, **blocks}, tmp_path / "resnet101.pth")
    with pytest.raises(mk.MageKitError, match=r"holds 'layer3\.6\..*must be weights of ResNet50, which has no such"):
        mk.ResNet50Logits(weights=str(tmp_path / "resnet101.pth"))


def test_counters_of_batch_norms_may_be_absent(file: Path, tmp_path: Path) -> None:
    """torchvision's older files have none."""
    state = torch.load(file, weights_only=True)
    older = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert len(older) < len(state)
    torch.save(older, tmp_path / "old.pth")
    first, second = (torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    old, new = (mk.ResNet50Logits(weights=str(path)) for path in (tmp_path / "old.pth", file))
    assert torch.equal(old(first, second), new(first, second))
