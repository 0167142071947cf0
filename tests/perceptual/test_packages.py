"""Networks of installed packages: they know pictures, and rank damage as an eye does; files that are something else."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mage_kit as mk
from mage_kit.perceptual.array_pickles import read_arrays
from mage_kit.perceptual.lite0 import load_lite0
from mage_kit.perceptual.squeezenet import load_squeezenet

DISTANCES = (mk.Lite0Distance, mk.SqueezeNetDistance)


def photographs() -> Tensor:
    """scikit-learn's two, (2, 3, 224, 224) in [0, 1]: a temple in China, a dahlia."""
    from sklearn.datasets import load_sample_images

    pixels = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2).float() / 255
    return F.interpolate(pixels[..., :427, 100:527], size=(224, 224), mode="bilinear", antialias=True)


@pytest.mark.parametrize("load", [load_lite0, load_squeezenet])
def test_they_are_the_networks_that_they_are_called(load) -> None:  # type: ignore[no-untyped-def]  # either loader
    """A temple in China: palace, stupa, monastery, mosque, dome, bell cote, boathouse; a flower is none of these."""
    network, digest = load()
    best = network(photographs()).topk(5).indices.tolist()
    assert len(digest) == 64
    buildings = {442, 449, 538, 663, 668, 698, 832}
    assert len(set(best[0]) & buildings) >= 3 and best[0][0] in buildings and not set(best[1]) & buildings, best


@pytest.mark.parametrize("kind", DISTANCES)
def test_at_equal_squared_error_blur_and_noise_are_farther_than_light(kind: type[mk.Perceptual]) -> None:
    distance, images = kind(), photographs()
    assert distance(images, images).abs().max() < 1e-7
    blurred = F.avg_pool2d(F.pad(images, (3, 3, 3, 3), mode="reflect"), 7, stride=1)
    error = (blurred - images).square().mean(dim=(1, 2, 3)).sqrt()[:, None, None, None]
    noisy = images + error * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    lighter = images + error
    by_light = distance(lighter, images)
    assert bool((distance(blurred, images) > 3 * by_light).all())
    assert bool((distance(noisy, images) > 3 * by_light).all())
    torch.testing.assert_close(distance(blurred, images), distance(images, blurred))
    assert "LPIPS" not in kind.network and len(distance.sha256) == 1
    distance.train()
    assert not any(part.training for part in distance.modules())


@pytest.mark.parametrize("kind", DISTANCES)
def test_gradients_reach_a_small_picture(kind: type[mk.Perceptual]) -> None:
    image = torch.rand(1, 3, 32, 32).requires_grad_()
    kind()(image, torch.rand(1, 3, 32, 32)).sum().backward()
    assert bool(torch.isfinite(image.grad).all()) and float(image.grad.abs().sum()) > 0


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    class _Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("harm",)

    path = tmp_path / "weights.pkl"
    for content in ({"conv1": [_Harm()]}, [1, 2], {"conv1": [np.array(["x"])]}):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(mk.MageKitError, match=r"must be|numpy arrays"):
            read_arrays(path)
    path.write_bytes(b"no pickle")
    with pytest.raises(mk.MageKitError, match="numpy arrays alone"):
        read_arrays(path)
    path.write_bytes(pickle.dumps({"conv1": [np.zeros((2, 2), np.float32)]}))
    assert read_arrays(path)["conv1"][0].shape == (2, 2)


@pytest.mark.parametrize("kind", DISTANCES)
def test_an_absent_package_names_its_extra(kind: type[mk.Perceptual], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(mk.MageKitError, match=r"pip install 'mage-kit\[perceptual\]'"):
        kind()
