"""Mean and covariance of features that come in parts, and the Fréchet distance of two such Gaussians.

Heusel et al., 2017. Legend: I images, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mage_kit.base.processes import add_up


@dataclass
class Moments:
    """Sums of features, of one process until `shared`.

    Args:
        count: Images.
        total_D: float64 sum.
        outer_DD: float64 sum of outer products.
    """

    count: float
    total_D: Tensor
    outer_DD: Tensor

    @classmethod
    def empty(cls, width: int, device: torch.device | None = None) -> Moments:
        """Return the moments of no image.

        Args:
            width: Features, D.
            device: Where the sums live.
        """
        zeros = torch.zeros(width, width, dtype=torch.float64, device=device)
        return cls(0.0, zeros[0].clone(), zeros)

    def add(self, features_ID: Tensor) -> None:
        """Take in the features of some images."""
        values = features_ID.to(self.total_D.device, torch.float64)
        self.count += len(values)
        self.total_D += values.sum(dim=0)
        self.outer_DD += values.T @ values

    def of_all(self) -> Moments:
        """Return the moments of all processes' images."""
        device = self.total_D.device
        count = add_up(torch.tensor(self.count, dtype=torch.float64, device=device))
        return Moments(float(count), add_up(self.total_D.clone()), add_up(self.outer_DD.clone()))

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Return mean (D,) and covariance (D, D), unbiased, float64.

        Raises:
            ValueError: Of fewer than two images.
        """
        if self.count < 2:
            raise ValueError(f"images: {self.count:g}, a covariance needs at least 2")
        mean = self.total_D / self.count
        return mean, (self.outer_DD - self.count * torch.outer(mean, mean)) / (self.count - 1)


def frechet(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """Return |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root is the sum of the roots of the product's eigenvalues, which are real and not negative but for
    rounding; no matrix root is needed.

    Args:
        first: Mean and covariance, float64.
        second: The same of the others.

    Raises:
        ValueError: If a number is not finite.
    """
    (mean_1, cov_1), (mean_2, cov_2) = first, second
    if not all(bool(torch.isfinite(part).all()) for part in (mean_1, cov_1, mean_2, cov_2)):
        raise ValueError("features: not finite, the distance of two Gaussians needs numbers")
    roots = torch.linalg.eigvals(cov_1 @ cov_2).real.clamp_min(0).sqrt().sum()
    distance = (mean_1 - mean_2).square().sum() + cov_1.trace() + cov_2.trace() - 2 * roots
    return max(0.0, float(distance))
