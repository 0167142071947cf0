"""What two networks play for: losses of discriminator and generator, and what keeps the discriminator in bounds.

D is a judgement of a picture, r of a real one, f of a reconstruction; all means are over judgements.

| | discriminator | generator |
|---|---|---|
| hinge | (mean max(0, 1 - r) + mean max(0, 1 + f)) / 2 | - mean f |
| vanilla | (mean ln(1 + e^-r) + mean ln(1 + e^f)) / 2 | - mean f |
| non_saturating | mean ln(1 + e^-r) + mean ln(1 + e^f) | mean ln(1 + e^-f) |

At r = f = 0, where a discriminator knows nothing, these are 1, ln 2 and 2 ln 2.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mage_kit.base.processes import add_up, world

Contest = Literal["hinge", "non_saturating", "vanilla"]


def discriminator_loss(contest: Contest, real: Tensor, rebuilt: Tensor) -> Tensor:
    """Return what the discriminator minimises, a scalar.

    Args:
        contest: See above.
        real: Judgements of pictures, any shape.
        rebuilt: Judgements of reconstructions.
    """
    if contest == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + rebuilt).mean())
    total = F.softplus(-real).mean() + F.softplus(rebuilt).mean()
    return total if contest == "non_saturating" else 0.5 * total


def generator_loss(contest: Contest, rebuilt: Tensor) -> Tensor:
    """Return what the generator minimises, a scalar, of judgements of its reconstructions."""
    return F.softplus(-rebuilt).mean() if contest == "non_saturating" else -rebuilt.mean()


class LeCam(nn.Module):
    """Holds judgements near the running mean of the other kind's (Tseng et al., 2021, equation 4).

    The cost is mean max(0, r - f')^2 + mean max(0, r' - f)^2 with running means r' and f' of the steps before; with a
    step's last pass they take in the step's. Means are over all passes and processes, so that neither changes anything.

    Args:
        decay: Of the running means.
    """

    means: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("means", torch.zeros(2))  # of real ones, of reconstructions
        self._passes: list[Tensor] = []  # what those of the step at hand have added

    def forward(self, real: Tensor, rebuilt: Tensor, passes: int = 1) -> Tensor:
        """Return the cost, a scalar; in training mode the running means move with the last pass of a step.

        Args:
            real: Judgements of pictures.
            rebuilt: Of their reconstructions.
            passes: Of a step in this process, each of as many pictures.
        """
        mean_real, mean_rebuilt = self.means.clone().unbind()
        cost = F.relu(real - mean_rebuilt).square().mean() + F.relu(mean_real - rebuilt).square().mean()
        if self.training:
            self._passes.append(torch.stack([real.detach().float().mean(), rebuilt.detach().float().mean()]))
            if len(self._passes) == passes:
                now = torch.stack(self._passes).mean(dim=0)
                self.means.lerp_(add_up(now) / world(), 1 - self.decay)
                self._passes.clear()
        return cost


def gradient_penalty(real_BCHW: Tensor, judgements: Tensor) -> Tensor:
    """Return R1 (Mescheder et al., 2018): the mean over pictures of |dD/dx|^2, D summed over a picture's judgements.

    Args:
        real_BCHW: Pictures that require gradients.
        judgements: Of these.
    """
    (gradient_BCHW,) = torch.autograd.grad(judgements.sum(), real_BCHW, create_graph=True)
    cost: Tensor = gradient_BCHW.square().sum(dim=(1, 2, 3)).mean()
    return cost


def adaptive_weight(rebuilding: Tensor, deceiving: Tensor, last: Tensor) -> Tensor:
    """Return |d rebuilding / d last| / (|d deceiving / d last| + 1e-4), at most 1e4, without gradients (VQGAN, eq. 7).

    Gradients are those of all processes' mean, in float32.

    Args:
        rebuilding: What the generator minimises besides, a scalar.
        deceiving: Its adversarial loss, a scalar.
        last: The last layer's weight.
    """
    norms = []
    for loss in (rebuilding, deceiving):
        (gradient,) = torch.autograd.grad(loss, last, retain_graph=True)
        norms.append((add_up(gradient.detach().float()) / world()).norm())
    weight: Tensor = (norms[0] / (norms[1] + 1e-4)).clamp(max=1e4)
    return weight
