"""The Fréchet distance between two sets of features, as in FID, with whatever extractor made them."""

from __future__ import annotations

import numpy as np
import torch

from mage_kit.evaluation.generation_metrics.moments import frechet


def frechet_distance(first_ID: np.ndarray, second_JD: np.ndarray) -> float:
    """Return the distance of the Gaussians of two sets of features; see `frechet`.

    Args:
        first_ID: Features, one row an image.
        second_JD: Features of the same width.

    Raises:
        ValueError: If the widths differ, a set has fewer than two images, or a feature is not finite.
    """
    if first_ID.shape[1] != second_JD.shape[1] or min(len(first_ID), len(second_JD)) < 2:
        raise ValueError(f"features: {first_ID.shape} and {second_JD.shape}, must have one width and at least two rows")
    gaussians = []
    for features in (first_ID, second_JD):
        wide = torch.from_numpy(features.astype(np.float64))
        covariance = torch.cov(wide.T).reshape(wide.shape[1], wide.shape[1])
        gaussians.append((wide.mean(dim=0), covariance))
    return frechet(*gaussians)
