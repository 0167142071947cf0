"""MAE's published layout: features against the encoder written again from its tensors, a step of fine-tuning; back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import mage_kit as mk
from mage_kit.layers.embedding import sine_cosine_positions
from mage_kit.legacy import Options, export_part, import_checkpoint, recognise
from tests.legacy.files import Run

WIDTH, DEPTH, HEADS, SIDE, GRID = 64, 3, 4, 8, 4
OPTIONS = Options(encoder_heads=HEADS, decoder_heads=2)
State = dict[str, Tensor]


def blocks(prefix: str, depth: int, width: int) -> State:
    state: State = {}
    for number in range(depth):
        at = f"{prefix}.{number}"
        for name, outputs, inputs in (
            ("attn.qkv", 3 * width, width), ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width), ("mlp.fc2", width, 4 * width),
        ):  # fmt: skip
            state[f"{at}.{name}.weight"] = torch.randn(outputs, inputs) / math.sqrt(inputs)
            state[f"{at}.{name}.bias"] = 0.1 * torch.randn(outputs)
        state |= norm(f"{at}.norm1", width) | norm(f"{at}.norm2", width)
    return state


def norm(name: str, width: int) -> State:
    return {f"{name}.weight": 1 + 0.1 * torch.randn(width), f"{name}.bias": 0.1 * torch.randn(width)}


def encoder_state() -> State:
    """As facebookresearch/mae writes `mae_pretrain_vit_*.pth`: the encoder alone."""
    torch.manual_seed(0)
    positions = sine_cosine_positions(mk.TokenGrid(GRID, GRID), WIDTH)
    return {
        "cls_token": torch.randn(1, 1, WIDTH), "pos_embed": positions[None].clone(),
        "patch_embed.proj.weight": 0.1 * torch.randn(WIDTH, 3, SIDE, SIDE),
        "patch_embed.proj.bias": 0.1 * torch.randn(WIDTH), **blocks("blocks", DEPTH, WIDTH), **norm("norm", WIDTH),
    }  # fmt: skip


def whole_state() -> State:
    """With the decoder, as `mae_visualize_vit_*.pth`."""
    width = 32
    encoder = encoder_state()
    return {
        **encoder, "mask_token": torch.randn(1, 1, width), "decoder_embed.weight": torch.randn(width, WIDTH) / 8,
        "decoder_embed.bias": torch.randn(width), "decoder_pos_embed": torch.randn(1, 1 + GRID**2, width),
        **blocks("decoder_blocks", 2, width), **norm("decoder_norm", width),
        "decoder_pred.weight": torch.randn(SIDE**2 * 3, width) / 6, "decoder_pred.bias": torch.randn(SIDE**2 * 3),
    }  # fmt: skip


def finetuned_state() -> State:
    state = {name: value for name, value in encoder_state().items() if not name.startswith("norm.")}
    return {**state, **norm("fc_norm", WIDTH), "head.weight": torch.randn(10, WIDTH) / 8, "head.bias": torch.randn(10)}


def run_blocks(x: Tensor, state: State, prefix: str, depth: int, heads: int) -> Tensor:
    """Pre-norm blocks of a plain vision transformer (Dosovitskiy et al., 2021), exact GELU, eps 1e-6."""
    width = x.shape[-1]

    def normed(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def layer(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    for number in range(depth):
        at = f"{prefix}.{number}"
        q, k, v = layer(normed(x, f"{at}.norm1"), f"{at}.attn.qkv").chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.transpose(-2, -1) / math.sqrt(width / heads)).softmax(dim=-1)
        x = x + layer((weights @ v).transpose(1, 2).flatten(2), f"{at}.attn.proj")
        x = x + layer(F.gelu(layer(normed(x, f"{at}.norm2"), f"{at}.mlp.fc1")), f"{at}.mlp.fc2")
    return x


def encoded(state: State, images: Tensor) -> Tensor:
    """Images in [0, 1] -> outputs of the last block (B, 1 + L, D), nothing masked."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (images - mean[:, None, None]) / std[:, None, None]
    patches = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=SIDE)
    x = patches.flatten(2).transpose(1, 2) + state["pos_embed"][:, 1:]
    first = (state["cls_token"] + state["pos_embed"][:, :1]).expand(len(x), 1, -1)
    return run_blocks(torch.cat([first, x], dim=1), state, "blocks", DEPTH, HEADS)


def pictures(count: int = 3) -> Tensor:
    return torch.rand(count, 3, GRID * SIDE, GRID * SIDE, generator=torch.Generator().manual_seed(1))


def written(state: State, path: Path) -> Path:
    torch.save({"model": state}, path)
    return path


@pytest.mark.parametrize("make", [encoder_state, whole_state])
def test_features_are_those_of_the_encoder_written_again(make: Any, tmp_path: Path) -> None:
    state = make()
    model = import_checkpoint(written(state, tmp_path / "mae.pth"), options=OPTIONS).part
    assert isinstance(model, mk.Mage) and (model.decoder is None) == (make is encoder_state)
    by_hand = encoded(state, pictures())[:, 1:].mean(dim=1)
    torch.testing.assert_close(model.features(pictures()), by_hand, rtol=1e-5, atol=1e-5)


def test_the_decoder_predicts_what_the_published_one_does(tmp_path: Path) -> None:
    """Three quarters hidden: MAE's whole forward pass, by the places that our plan keeps."""
    state = whole_state()
    model = import_checkpoint(written(state, tmp_path / "mae.pth"), options=OPTIONS).part.eval()
    tokens = model.see(pictures())
    noise = torch.rand(3, GRID**2, generator=torch.Generator().manual_seed(2))
    plan = model.plan(torch.full((3,), 0.75, dtype=torch.float64), noise)
    latents = model.encoder.norm(model.encode(tokens, plan))
    ours = model.heads["tokens"](model.decode(latents, plan), model.embedding)
    hidden = plan.masked_BL
    assert hidden.sum(dim=1).tolist() == [12] * 3
    for image in range(3):
        places = (~hidden[image]).nonzero()[:, 0]
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = (pictures()[image : image + 1] - mean[:, None, None]) / std[:, None, None]
        patches = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=SIDE)
        x = (patches.flatten(2).transpose(1, 2) + state["pos_embed"][:, 1:])[:, places]
        x = torch.cat([state["cls_token"] + state["pos_embed"][:, :1], x], dim=1)
        x = run_blocks(x, state, "blocks", DEPTH, HEADS)
        x = F.layer_norm(x, (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-6)
        x = F.linear(x, state["decoder_embed.weight"], state["decoder_embed.bias"])
        full = state["mask_token"].expand(1, 1 + GRID**2, -1).clone()
        full[:, 0] = x[:, 0]
        full[:, 1 + places] = x[:, 1:]
        y = run_blocks(full + state["decoder_pos_embed"], state, "decoder_blocks", 2, 2)
        y = F.layer_norm(y, (32,), state["decoder_norm.weight"], state["decoder_norm.bias"], 1e-6)
        y = F.linear(y, state["decoder_pred.weight"], state["decoder_pred.bias"])[:, 1:]
        torch.testing.assert_close(ours[image], y[0], rtol=1e-4, atol=1e-4)


def test_a_step_of_fine_tuning_has_the_gradients_of_the_published_form(tmp_path: Path) -> None:
    state = {name: value.requires_grad_() for name, value in finetuned_state().items()}
    file = written({name: value.detach() for name, value in state.items()}, tmp_path / "c.pth")
    part = import_checkpoint(file, options=Options(encoder_heads=HEADS)).part
    assert isinstance(part, mk.MageClassifier) and part.classes == 10
    labels = torch.tensor([1, 7, 3])
    pooled = F.layer_norm(
        encoded(state, pictures())[:, 1:].mean(dim=1), (WIDTH,), state["fc_norm.weight"], state["fc_norm.bias"], 1e-6
    )
    loss = F.cross_entropy(F.linear(pooled, state["head.weight"], state["head.bias"]), labels)
    loss.backward()
    part.train()
    ours = F.cross_entropy(part(part.see(pictures())), labels)
    ours.backward()
    torch.testing.assert_close(ours, loss, rtol=1e-5, atol=1e-6)
    kernel = state["patch_embed.proj.weight"].grad.permute(0, 2, 3, 1).flatten(1)
    for theirs, mine in (
        (kernel, part.embedding.projection.weight.grad), (state["head.weight"].grad, part.head.weight.grad),
        (state["blocks.1.attn.qkv.weight"].grad, part.encoder.blocks[1].attn.qkv.weight.grad),
        (state["cls_token"].grad.flatten(), part.embedding.class_token.grad),
    ):  # fmt: skip
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "kind"), [(encoder_state, "mae"), (whole_state, "mae"), (finetuned_state, "mae_classifier")]
)
def test_a_file_comes_back_bit_for_bit(make: Any, kind: str, tmp_path: Path, run: Run) -> None:
    state = make()
    heads = ["--encoder-heads", HEADS, *(["--decoder-heads", 2] if "decoder_embed.weight" in state else [])]
    layout = recognise(state)
    assert layout is not None and layout.kind == kind
    assert run("convert", written(state, tmp_path / "mae.pth"), "--out", tmp_path / "folder", *heads)[0] == 0
    code, _, error = run("export", tmp_path / "folder", "--out", tmp_path / "back.pth")
    assert code == 0, error
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == state.keys() and all(torch.equal(back[name], value) for name, value in state.items())


def test_a_model_of_our_recipe_goes_out_with_its_computed_positions() -> None:
    with torch.device("meta"):
        model = mk.Recipe.load("mae_vitb").build_model()
    names = export_part(model).tensors
    assert names["pos_embed"].shape == (1, 197, 768) and names["patch_embed.proj.weight"].shape == (768, 3, 16, 16)
    assert names["decoder_pred.weight"].shape == (768, 512) and "embedding.mask_token" not in names


def test_an_encoder_of_pixels_goes_out_under_timms_names(tmp_path: Path, run: Run) -> None:
    state = encoder_state()
    folder = tmp_path / "folder"
    file = written(state, tmp_path / "mae.pth")
    assert run("convert", file, "--out", folder, "--encoder-heads", HEADS)[0] == 0
    assert run("export", folder, "--part", "encoder", "--out", tmp_path / "vit.safetensors")[0] == 0
    tensors = load_file(tmp_path / "vit.safetensors")
    assert tensors.keys() == state.keys() and all(torch.equal(tensors[name], value) for name, value in state.items())


def test_published_sizes_are_known() -> None:
    """mae_pretrain_vit_base.pth: 85.8M values; heads and the image's side follow from its shapes."""
    shapes = {"cls_token": (1, 1, 768), "pos_embed": (1, 197, 768), "patch_embed.proj.weight": (768, 3, 16, 16),
              "patch_embed.proj.bias": (768,), "norm.weight": (768,), "norm.bias": (768,)}  # fmt: skip
    sizes = {"attn.qkv": (2304, 768), "attn.proj": (768, 768), "mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}
    for number in range(12):
        for name, size in sizes.items():
            shapes |= {f"blocks.{number}.{name}.weight": size, f"blocks.{number}.{name}.bias": size[:1]}
        shapes |= {f"blocks.{number}.norm{k}.{end}": (768,) for k in (1, 2) for end in ("weight", "bias")}
    layout = recognise(shapes)
    assert layout is not None and layout.kind == "mae"
    fit = layout.fit({name: torch.empty(size, device="meta") for name, size in shapes.items()}, Options())
    assert fit.values == sum(math.prod(size) for size in shapes.values()) == 85_798_656 and not fit.unused
    assert fit.module.encoder.heads == 12 and fit.module.tokenizer.image_size == (224, 224)


def test_other_vision_transformers_are_not_taken_for_it(tmp_path: Path) -> None:
    state = encoder_state()
    supervised = {**state, "head.weight": torch.zeros(10, WIDTH), "head.bias": torch.zeros(10)}
    with pytest.raises(mk.MageKitError):
        import_checkpoint(written(supervised, tmp_path / "timm.pth"), options=OPTIONS)
    uneven = {**state, "pos_embed": torch.zeros(1, 6, WIDTH)}
    with pytest.raises(mk.MageKitError, match="5 positions are no square grid"):
        import_checkpoint(written(uneven, tmp_path / "uneven.pth"), options=OPTIONS)
