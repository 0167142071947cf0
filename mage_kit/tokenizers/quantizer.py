"""The codebook: nearest code, look-up, and the running-mean update with restart of dead codes.

Legend: B images, L tokens, V codes, W code width, F = B x L features.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mage_kernels.autocasting import without_autocast
from torch import Tensor, nn

from mage_kit.base.errors import MageKitError
from mage_kit.base.processes import add_up, gather_rows, world

_SETTLED = 1000  # updates after which the running mean has its full inertia


class Quantizer(nn.Module):
    """V codes of width W; squared Euclidean distance.

    Args:
        codes: V.
        width: W.
        learned: True if the codes follow a gradient, False if they follow running means.
        unit: Features and codes are divided by their length before use, which makes it the cosine that counts.
    """

    passing: ClassVar[tuple[str, ...]] = ("counts_V", "sums_VW", "updates")  # state of training alone

    counts_V: Tensor
    sums_VW: Tensor
    updates: Tensor

    def __init__(self, codes: int, width: int, *, learned: bool, unit: bool = False) -> None:
        super().__init__()
        self.learned, self.unit = learned, unit
        self.trained = False  # fresh codes are placed on features first; trained ones stay where they are
        self.embedding = nn.Embedding(codes, width)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)
        self.embedding.weight.requires_grad_(learned)

    def start_following(self) -> None:
        """Register what the running means need; a trained codebook is its codes alone."""
        if self.learned or hasattr(self, "updates"):
            return
        codes_VW = self.embedding.weight.detach()
        self.register_buffer("counts_V", torch.ones(len(codes_VW), device=codes_VW.device))
        self.register_buffer("sums_VW", codes_VW.clone())
        start = _SETTLED if self.trained else 0
        self.register_buffer("updates", torch.full((), start, dtype=torch.int64, device=codes_VW.device))

    def stop_following(self) -> None:
        """Forget the running means."""
        self.trained = True
        for name in self.passing:
            self._buffers.pop(name, None)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.trained = True

    def nearest(self, features_BLW: Tensor) -> Tensor:
        """Return the nearest codes' ids (B, L), int64; computed in float32."""
        with without_autocast(features_BLW):
            features = self.prepare(features_BLW.detach().float())
            codes_VW = self.prepare(self.embedding.weight.detach().float())
            # |z|^2 is the same for every code and cannot change the choice, but keeps published rounding.
            square = features.pow(2).sum(dim=-1, keepdim=True)
            distance_BLV = square - 2 * features @ codes_VW.T + codes_VW.pow(2).sum(dim=-1)
            return distance_BLV.argmin(dim=-1)

    def lookup(self, ids_BL: Tensor) -> Tensor:
        """Return the codes (B, L, W), at unit length where that is the rule."""
        return self.prepare(self.embedding(ids_BL))

    def prepare(self, vectors: Tensor) -> Tensor:
        """Return features or codes (..., W) as they are compared and decoded."""
        return F.normalize(vectors, dim=-1) if self.unit else vectors

    @torch.no_grad()
    def follow(self, features_BLW: Tensor, decay: float, restart: float, random: torch.Generator) -> None:
        """Move the codes to the running mean of the features that they encode; `start_following` comes first.

        Args:
            features_BLW: float32 encoder features.
            decay: Of the running mean; the first updates use less, so that the start is forgotten soon.
            restart: Codes used less than this share of the mean use are moved onto random features.
            random: Source of the restarts.

        Raises:
            MageKitError: If training was not started.
        """
        if not hasattr(self, "updates"):
            raise MageKitError("tokenizer: start_training() must come before training losses where codes follow means")
        with without_autocast(features_BLW):
            self._follow(features_BLW.float().reshape(-1, features_BLW.shape[-1]), decay, restart, random)

    def _follow(self, features_FW: Tensor, decay: float, restart: float, random: torch.Generator) -> None:
        codes = self.embedding.num_embeddings
        if int(self.updates) == 0:
            self._place(torch.ones(codes, dtype=torch.bool), features_FW, random)
        one_hot_FV = F.one_hot(self.nearest(features_FW), codes).float()
        done = int(self.updates)
        keep = min(decay, (1 + done) / (10 + done))
        self.counts_V.lerp_(add_up(one_hot_FV.sum(dim=0)), 1 - keep)
        self.sums_VW.lerp_(add_up(one_hot_FV.T @ features_FW), 1 - keep)
        self.embedding.weight.copy_(self.sums_VW / self.counts_V.clamp_min(1e-3)[:, None])
        if restart and done % 10 == 9:
            self._place((self.counts_V < restart * world() * len(features_FW) / codes).cpu(), features_FW, random)
        self.updates += 1

    def _place(self, which_V: Tensor, features_FW: Tensor, random: torch.Generator) -> None:
        """Put the chosen codes onto random features of all processes, with the mean use as their count."""
        features_FW = gather_rows(features_FW)
        chosen = which_V.nonzero()[:, 0].to(features_FW.device)
        picks = torch.randint(len(features_FW), (len(chosen),), generator=random).to(features_FW.device)
        count = len(features_FW) / self.embedding.num_embeddings
        self.embedding.weight[chosen] = features_FW[picks]
        self.counts_V[chosen] = count
        self.sums_VW[chosen] = features_FW[picks] * count
