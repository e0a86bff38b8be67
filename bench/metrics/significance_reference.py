"""The paired bootstrap by its definition: resample the points, many times; for the tests."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def resampled_differences(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Mean of b − a over n points drawn with replacement from the n there are, float64 [resamples]."""
    draw = np.random.default_rng(seed)
    points = draw.integers(len(a), size=(resamples, len(a)))
    return (b - a)[points].mean(axis=1)
