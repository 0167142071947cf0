"""A codebook whose codes are running means of what they encode, with restart of dead codes.

With n_v the number of a batch's features whose nearest code is v, and s_v their sum, N_v and S_v follow n_v and s_v as
exponential means, and the code is S_v / N_v: the mean of its features, recent ones weighing more. Sums are taken by id,
without a table of ones and zeros.

Legend: V codes, W code width, F = B x L features.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from mage_kernels.autocasting import without_autocast
from torch import Tensor

from mage_kit.base.errors import MageKitError
from mage_kit.base.fields import Fraction, Probability
from mage_kit.base.processes import add_up, gather_rows, world
from mage_kit.quantizers.base import QUANTIZERS, Quantized
from mage_kit.quantizers.codebook import Codebook

_SETTLED = 1000  # updates after which the running mean has its full inertia
_RESTING = 0.8  # share of the training from which on no code is restarted
_EVERY = 10  # updates between two looks for dead codes


@QUANTIZERS.register("ema")
class EMACodebook(Codebook):
    """Codes that follow the running mean of what they encode; no gradient moves them.

    Args:
        decay: Of the running mean; lower in the first steps.
        restart: A code used less than this share of the mean use is moved onto a random feature (0: never).
    """

    weightless = Codebook.weightless | {"decay", "restart"}
    passing: ClassVar[tuple[str, ...]] = ("counts_V", "sums_VW", "updates")

    counts_V: Tensor
    sums_VW: Tensor
    updates: Tensor

    def __init__(self, *, decay: Probability = 0.99, restart: Fraction = 0.03, **shared: Any) -> None:
        super().__init__(**shared)
        self.decay, self.restart = decay, restart
        self.embedding.weight.requires_grad_(False)

    def start_training(self) -> None:
        """Register what the running means need; a trained codebook is its codes alone."""
        self.embedding.requires_grad_(False)
        if hasattr(self, "updates"):
            return
        codes_VW = self.embedding.weight.detach()
        self.register_buffer("counts_V", torch.ones(len(codes_VW), device=codes_VW.device))
        self.register_buffer("sums_VW", codes_VW.clone())
        start = _SETTLED if self.is_trained else 0
        self.register_buffer("updates", torch.full((), start, dtype=torch.int64, device=codes_VW.device))

    def finish_training(self) -> None:
        """Forget the running means."""
        super().finish_training()
        for name in self.passing:
            self._buffers.pop(name, None)

    def forward(self, features_BLW: Tensor, progress: float, random: torch.Generator) -> Quantized:
        """Move the codes to the means of the features that they encode, then quantize.

        Raises:
            MageKitError: If training was not started.
        """
        if not hasattr(self, "updates"):
            raise MageKitError("tokenizer: start_training() must come before training losses where codes follow means")
        prepared_BLW = self.prepare(features_BLW)
        with without_autocast(features_BLW), torch.no_grad():
            features_FW = prepared_BLW.detach().float().reshape(-1, self.width)
            self._follow(features_FW, self.restart if progress < _RESTING else 0.0, random)
        return self.look_up(prepared_BLW)[0]

    def _follow(self, features_FW: Tensor, restart: float, random: torch.Generator) -> None:
        updates = int(self.updates)
        if updates == 0:
            self._place(torch.ones(self.codes, dtype=torch.bool), features_FW, random)
        ids_F = self.nearest(features_FW)
        counts_V = torch.bincount(ids_F, minlength=self.codes).to(features_FW.dtype)
        sums_VW = torch.zeros_like(self.sums_VW).index_add_(0, ids_F, features_FW)
        keep = min(self.decay, (1 + updates) / (10 + updates))
        self.counts_V.lerp_(add_up(counts_V), 1 - keep)
        self.sums_VW.lerp_(add_up(sums_VW), 1 - keep)
        self.embedding.weight.copy_(self.sums_VW / self.counts_V.clamp_min(1e-3)[:, None])
        if restart and updates % _EVERY == _EVERY - 1:
            self._place((self.counts_V < restart * world() * len(features_FW) / self.codes).cpu(), features_FW, random)
        self.updates += 1

    def _place(self, which_V: Tensor, features_FW: Tensor, random: torch.Generator) -> None:
        """Put the chosen codes onto random features of all processes, with the mean use as their count."""
        features_FW = gather_rows(features_FW)
        ids = which_V.nonzero()[:, 0].to(features_FW.device)
        picks = torch.randint(len(features_FW), (len(ids),), generator=random).to(features_FW.device)
        count = len(features_FW) / self.codes
        self.embedding.weight[ids] = features_FW[picks]
        self.counts_V[ids] = count
        self.sums_VW[ids] = features_FW[picks] * count
