"""Padding: place the encoder's outputs on the grid, fill the rest, add positions.

Three forms: `triton` in one launch, `torch` by gathering, `reference` position by position.

Legend: B images, N = 1 + L positions (class first), S = 1 + kept tokens, E decoder width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mage_kernels.backend import Backend, choose, ramp
from mage_kernels.ops.drop import drop_tokens


def pad_tokens(
    latents_BSE: Tensor,
    slot_BN: Tensor,
    positions_NE: Tensor,
    fill_E: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Place the encoder's outputs on the grid, fill the rest, add positions.

    Args:
        latents_BSE: Encoder outputs after the linear layer to the decoder's width, class first.
        slot_BN: int64 place of each position among the latents; 0 for the class and for what is filled. No other
            place may stand at two positions.
        positions_NE: The decoder's positions.
        fill_E: What fills a position of slot 0 (the class position excepted); None: the image's own class
            feature [C], paper section 3.1.
        backend: Which implementation runs.

    Returns:
        (B, N, E).

    Raises:
        ValueError: If the backend is unknown or cannot run here, or the batches differ or are empty.
    """
    rows, images = slot_BN.shape[0], latents_BSE.shape[0]  # len() would fix them where a graph is recorded
    if rows != images or rows == 0:
        raise ValueError(f"slot: {rows} rows for {images} images, must be one each, at least one")
    choice = choose("pad_tokens", backend, latents_BSE.device, latents_BSE.dtype, latents_BSE.shape[2], probe)
    return _FORMS[choice.implementation](latents_BSE, slot_BN, positions_NE, fill_E)


def _torch(latents: Tensor, slot: Tensor, positions: Tensor, fill: Tensor | None) -> Tensor:
    padded_BNE = drop_tokens(latents, slot)
    if fill is not None:
        filled_BN = slot == 0
        filled_BN = torch.cat([torch.zeros_like(filled_BN[:, :1]), filled_BN[:, 1:]], dim=1)
        padded_BNE = torch.where(filled_BN[:, :, None], fill.to(padded_BNE.dtype), padded_BNE)
    return padded_BNE + positions


def _reference(latents: Tensor, slot: Tensor, positions: Tensor, fill: Tensor | None) -> Tensor:
    images = []
    for own, places in zip(latents, slot, strict=True):
        rows = [
            own[place] if place > 0 or position == 0 or fill is None else fill.to(own.dtype)
            for position, place in enumerate(places.tolist())
        ]
        images.append(torch.stack(rows))
    return torch.stack(images) + positions


def _triton(latents: Tensor, slot: Tensor, positions: Tensor, fill: Tensor | None) -> Tensor:
    from mage_kernels.triton import pad_kernel as launched

    out: Tensor = launched.pad_tokens(latents, slot, positions, fill)
    return out


def probe(implementation: str, device: torch.device, dtype: torch.dtype, width: int) -> list[Tensor]:
    """Run one form, forward and backward, on a grid of four positions; return the output and the gradients."""
    leaves = [ramp(shape, device, dtype) for shape in ((1, 3, width), (4, width), (width,))]
    latents, positions, fill = leaves
    slot = torch.tensor([[0, 2, 0, 0]], device=device)
    with torch.enable_grad():
        out = _FORMS[implementation](latents, slot, positions, fill)
        return [out, *torch.autograd.grad(out, leaves, ramp(out.shape, device, out.dtype))]


_FORMS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "triton": _triton,
    "torch": _torch,
    "reference": _reference,
}
