"""A tokenizer's checkpoint as other people's code has it, discriminator included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.cli import app
from tests.training.test_adversarial import game

TAMING = {
    "kind": "taming", "image_size": [32, 32], "channels": 3, "base_channels": 32, "multipliers": [1, 2],
    "res_blocks": 1, "norm_groups": 32, "z_channels": 16, "quantizer": {"kind": "gradient", "codes": 32, "width": 16},
}  # fmt: skip


def trained(place: Path, **adversary: Any) -> Path:
    recipe = game(
        steps=2, batch=4, augment=None, adversary={"kind": "patchgan", "width": 8, "halvings": 3, **adversary}
    )
    return mk.train(recipe.extended(tokenizer=TAMING), place)


def export(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return done.exit_code, done.output + str(done.exception or "")


def discriminator(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Taming's, from its tensors alone: 4 x 4 convolutions, batch norm between the first and the last."""
    names = sorted({int(name.split(".")[3]) for name in state if name.startswith("loss.discriminator.main.")})
    convolutions = [n for n in names if state[f"loss.discriminator.main.{n}.weight"].ndim == 4]
    for place, number in enumerate(convolutions):
        at = f"loss.discriminator.main.{number}."
        x = F.conv2d(x, state[at + "weight"], state.get(at + "bias"), stride=2 if place < 3 else 1, padding=1)
        if 0 < place < len(convolutions) - 1:
            norm = f"loss.discriminator.main.{number + 1}."
            parts = (state[norm + name] for name in ("running_mean", "running_var", "weight", "bias"))
            x = F.batch_norm(x, *parts)
        if place < len(convolutions) - 1:
            x = F.leaky_relu(x, 0.2)
    return x


def test_taming_reads_tokenizer_and_discriminator(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", norm="batch")
    code, words = export(run, "--out", tmp_path / "run.ckpt", "--layout", "taming")
    assert code == 0 and "layout taming" in words and "left out" not in words
    state = torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"]
    own = mk.ADVERSARIES.parse({"kind": "patchgan", "width": 8, "norm": "batch"})
    from mage_kit.adversaries import AdversaryWires, build_adversary

    mine = build_adversary(own, AdversaryWires(3, (32, 32), (16, 16))).eval()
    prefix = "loss.discriminator."
    mine.load_state_dict({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(discriminator(state, x), mine.main(x))
    assert export(run / "tokenizer", "--out", tmp_path / "folder.ckpt")[0] == 0, "of the tokenizer's folder, too"
    again = torch.load(tmp_path / "folder.ckpt", weights_only=True)["state_dict"]
    assert again.keys() == state.keys() and all(torch.equal(again[name], state[name]) for name in state)
    done = CliRunner().invoke(app, ["convert", str(tmp_path / "run.ckpt"), "--out", str(tmp_path / "back"),
                                    "--image-size", "32x32"])  # fmt: skip
    assert done.exit_code == 0, done.output
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(mk.load_tokenizer(run).encode(image), mk.load_tokenizer(tmp_path / "back").encode(image))


def test_another_adversary_is_left_out_in_words(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    code, words = export(run, "--out", tmp_path / "run.ckpt")
    assert code == 0 and "left out" in words and "the adversary (patchgan, norm group; it has patchgan" in words
    state = torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in state if name.startswith("loss")]
    code, words = export(run, "--out", tmp_path / "other.ckpt", "--layout", "vqgan")
    assert code == 1 and "layout: 'vqgan', must be taming; this is a TamingVQGAN" in words
    assert not (tmp_path / "other.ckpt").exists()
    weights = run / "adversary" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + b"\0" * 8)
    code, words = export(run, "--out", tmp_path / "damaged.ckpt")
    assert code == 1 and "weights.safetensors" in words and not (tmp_path / "damaged.ckpt").exists()


@pytest.mark.parametrize("layout", ["taming", "nonsense"])
def test_an_encoder_has_no_such_layout(layout: str, tmp_path: Path) -> None:
    from tests import build

    folder = mk.save(build.mage(), tmp_path / "model")
    with pytest.raises(mk.MageKitError, match=f"layout: '{layout}', goes with no part 'encoder'"):
        mk.export(folder, tmp_path / "x.safetensors", part="encoder", layout=layout)
