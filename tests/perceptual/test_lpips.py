"""LPIPS against its definition in numpy, on a random VGG; files that are something else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import mage_kit as mk
from mage_kit.perceptual.lpips_vgg import _STAGES, _SUMS, VGGStages


def vgg_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {**VGGStages().state_dict(), "classifier.0.weight": torch.zeros(2, 2)}


def linear_state(sums: tuple[float, ...] = _SUMS) -> dict[str, Tensor]:
    torch.manual_seed(1)
    state = {}
    for number, (widths, total) in enumerate(zip(_STAGES, sums, strict=True)):
        weights = torch.rand(1, widths[-1], 1, 1)
        state[f"lin{number}.model.1.weight"] = weights / weights.sum() * total
    return state


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("lpips")
    torch.save(vgg_state(), folder / "vgg.pth")
    torch.save(linear_state(), folder / "linear.pth")
    return folder / "vgg.pth", folder / "linear.pth"


@pytest.fixture(scope="module")
def lpips(files: tuple[Path, Path]) -> mk.LPIPSVGG:
    return mk.LPIPSVGG(vgg=str(files[0]), linear=str(files[1]))


def convolved(x: NDArray[np.float64], weight: NDArray[np.float64], bias: NDArray[np.float64]) -> NDArray[np.float64]:
    """3 x 3, zeros around; (K, H, W)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("khwij,okij->ohw", windows, weight, optimize=True) + bias[:, None, None]


def by_hand(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Zhang et al., equation 1, for pictures in [-1, 1] as LPIPS' own scaling layer has them."""
    state, linear = ({name: value.double().numpy() for name, value in s.items()} for s in (vgg_state(), linear_state()))
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    pictures = [((2 * x - 1) - shift[:, None, None]) / scale[:, None, None] for x in (first, second)]
    total, place = 0.0, 0
    for number, widths in enumerate(_STAGES):
        if number:
            pictures = [x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).max(axis=(2, 4)) for x in pictures]
        for _ in widths:
            weight, bias = state[f"features.{place}.weight"], state[f"features.{place}.bias"]
            pictures = [np.maximum(convolved(x, weight, bias), 0) for x in pictures]
            place += 2
        place += 1
        one, other = (x / (np.sqrt((x**2).sum(axis=0)) + 1e-10) for x in pictures)
        weights = linear[f"lin{number}.model.1.weight"][0]
        total += float((weights * (one - other) ** 2).sum(axis=0).mean())
    return total


def test_lpips_is_its_definition(lpips: mk.LPIPSVGG) -> None:
    generator = torch.Generator().manual_seed(3)
    first, second = torch.rand(2, 3, 32, 48, generator=generator), torch.rand(2, 3, 32, 48, generator=generator)
    distances = lpips(first, second)
    for place in range(2):
        expected = by_hand(first[place].double().numpy(), second[place].double().numpy())
        assert float(distances[place]) == pytest.approx(expected, rel=2e-4)


def test_a_distance_is_zero_to_itself_symmetric_and_never_in_training_mode(lpips: mk.LPIPSVGG) -> None:
    first, second = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    assert lpips(first, first).abs().max() == 0
    torch.testing.assert_close(lpips(first, second), lpips(second, first))
    before = lpips(first, second)
    lpips.train()
    assert torch.equal(lpips(first, second), before) and not any(part.training for part in lpips.modules())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lpips(first, second), before), "float32 whatever is on around it"
    assert not any(value.requires_grad for value in lpips.parameters())


def test_gradients_are_finite_where_a_picture_is_flat(lpips: mk.LPIPSVGG) -> None:
    image = torch.zeros(1, 3, 32, 32).requires_grad_()
    lpips(image, torch.rand(1, 3, 32, 32)).sum().backward()
    assert bool(torch.isfinite(image.grad).all()) and float(image.grad.abs().sum()) > 0


def test_small_pictures_are_enlarged(lpips: mk.LPIPSVGG) -> None:
    assert bool(torch.isfinite(lpips(torch.rand(1, 3, 8, 12), torch.rand(1, 3, 8, 12))).all())


def test_other_files_are_refused_in_a_sentence(files: tuple[Path, Path], tmp_path: Path) -> None:
    vgg, linear = (str(file) for file in files)

    def refused(state: dict[str, Tensor], words: str, which: str) -> None:
        path = tmp_path / "other.pth"
        torch.save(state, path)
        keywords = {"vgg": vgg, "linear": linear, which: str(path)}
        with pytest.raises(mk.MageKitError, match=words) as caught:
            mk.LPIPSVGG(**keywords)
        assert "\n" not in str(caught.value)

    refused(linear_state((5.0, 8.858, 17.515, 51.521, 47.035)), "0.0 is at fault", "linear")
    refused({"lin0.model.1.weight": torch.rand(1, 64, 1, 1)}, "adds up|must hold", "linear")
    refused({**linear_state(), "lin2.model.1.weight": -linear_state()["lin2.model.1.weight"]}, "below 0", "linear")
    short = {name: value for name, value in vgg_state().items() if not name.startswith("features.28")}
    refused(short, re.escape("lacks 'features.28.weight'"), "vgg")
    refused({**vgg_state(), "features.0.weight": torch.rand(64, 3, 7, 7)}, "another network", "vgg")
    refused({**vgg_state(), "features.30.weight": torch.rand(512, 512, 3, 3)}, "holds 'features.30.weight'", "vgg")
    refused({**vgg_state(), "features.0.bias": torch.full((64,), torch.nan)}, "not finite", "vgg")
    with pytest.raises(mk.MageKitError, match="no such file"):
        mk.LPIPSVGG(vgg=str(tmp_path / "absent.pth"), linear=linear)


def test_grey_pictures_are_refused_in_a_sentence(lpips: mk.LPIPSVGG) -> None:
    with pytest.raises(mk.MageKitError, match="reads colour"):
        lpips(torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32))
