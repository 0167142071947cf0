"""The Fréchet distance between two sets of features, as in FID, with whatever extractor made them."""

from __future__ import annotations

import numpy as np
import torch


def frechet_distance(first_ID: np.ndarray, second_JD: np.ndarray) -> float:
    """Return |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)) of two sets of features.

    The trace of the root is the sum of the roots of the product's eigenvalues, which are real and not negative.

    Args:
        first_ID: Features, one row an image.
        second_JD: Features of the same width.

    Raises:
        ValueError: If the widths differ or a set has fewer than two images.
    """
    if first_ID.shape[1] != second_JD.shape[1] or min(len(first_ID), len(second_JD)) < 2:
        raise ValueError(f"features: {first_ID.shape} and {second_JD.shape}, must have one width and at least two rows")
    means, covariances = [], []
    for features in (first_ID, second_JD):
        wide = torch.from_numpy(features.astype(np.float64))
        means.append(wide.mean(dim=0))
        covariances.append(torch.cov(wide.T).reshape(wide.shape[1], wide.shape[1]))
    eigenvalues = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp_min(0)
    squared = (means[0] - means[1]).square().sum()
    distance = squared + covariances[0].trace() + covariances[1].trace() - 2 * eigenvalues.sqrt().sum()
    return max(0.0, float(distance))
