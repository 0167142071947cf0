"""Changes of a published checkpoint's tensors before it is written: names, shapes, dtypes, second tensors."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Change = Callable[[Tensors, str, random.Random], Tensors]
PREFIXES = ("module.", "_orig_mod.", "vae.", "first_stage_model.", "student.", "model_ema.", "a/", "x", ".", "\x1b[31m")
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor may be computed with: dense, and no larger than what it holds."""
    return tensor.layout == torch.strided and not tensor.is_meta and tensor.numel() < 1 << 20


def shift(tensors: Tensors) -> Tensors:
    """Other weights of the same form."""
    return {name: tensor.float() + 1 for name, tensor in tensors.items() if is_plain(tensor)}


def rename(tensors: Tensors, name: str, draw: random.Random) -> Tensors:
    words = name.split(".")
    place = draw.randrange(len(words))
    word = words[place]
    words[place] = draw.choice(("", "x", f"{word}0", word[:-1], "module", draw.choice(words), "y" * 400, "[/red]"))
    tensors[".".join(words)] = tensors.pop(name)
    return tensors


def drop(tensors: Tensors, name: str, draw: random.Random) -> Tensors:
    del tensors[name]
    return tensors


def reshape(tensors: Tensors, name: str, draw: random.Random) -> Tensors:
    """Another number of axes or rows; one that claims more values than are stored."""
    tensor = tensors[name]
    if not is_plain(tensor):
        return tensors
    forms = (
        tensor.flatten(), tensor[None], tensor[..., None], tensor.reshape(-1)[:0], torch.cat([tensor.reshape(-1)] * 2),
        tensor.squeeze(), tensor.reshape(-1)[0], torch.ones(1).expand(1 << 20, 1 << 12), tensor.reshape(1, -1),
    )  # fmt: skip
    return tensors | {name: draw.choice(forms)}


def retype(tensors: Tensors, name: str, draw: random.Random) -> Tensors:
    """Values that are no weights."""
    if not is_plain(tensors[name]):
        return tensors
    tensor = tensors[name].float()
    forms = (
        tensor.to(torch.int64), tensor.to(torch.complex64), tensor > 0, tensor.to_sparse(), tensor.to("meta"),
        tensor * torch.nan, tensor + torch.inf, tensor.double() * 1e200 + 1e300,
    )  # fmt: skip
    return tensors | {name: draw.choice(forms)}


def add_second(tensors: Tensors, name: str, draw: random.Random) -> Tensors:
    """Another tensor of the same name once the words of wrappers are left out, or once names are today's."""
    again = {f"module.{name}"} | {name.replace(new, old) for new, old in OLD.items()} - {name}
    return tensors | {draw.choice(sorted(again)): value for value in shift({name: tensors[name]}).values()}


def put_before_some(tensors: Tensors, name: str, draw: random.Random) -> Tensors:
    prefix, root = draw.choice(PREFIXES), name.split(".")[0]
    return {(prefix if key.startswith(root) else "") + key: tensor for key, tensor in tensors.items()}


def put_before_all(tensors: Tensors, name: str, draw: random.Random) -> Tensors:
    prefix = draw.choice(PREFIXES)
    return {prefix + key: tensor for key, tensor in tensors.items()}


def add_rival(tensors: Tensors, name: str, draw: random.Random) -> Tensors:
    """Other weights of the same form below a prefix."""
    prefix = draw.choice(PREFIXES[2:6])
    return {prefix + key: tensor for key, tensor in shift(tensors).items()} | tensors


def add_names(tensors: Tensors, name: str, draw: random.Random) -> Tensors:
    """One name below many prefixes."""
    return tensors | {f"a{number}.{name}": torch.ones(1) for number in range(draw.choice((1, 99, 3000)))}


CHANGES: tuple[Change, ...] = (
    rename, rename, drop, reshape, reshape, retype, add_second, put_before_some, put_before_all, add_rival, add_names
)  # fmt: skip
