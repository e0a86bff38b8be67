"""How the bucket scores of one trained model become a label's score: the estimators, and the scores that they read.

All of them are decoders of the same R·B outputs, so a run can evaluate several. The papers and the official code
disagree on which to use: the 2018 paper and code average softmax probabilities (`mean`; `unbiased` is its affine map,
arXiv 1810.04254, equation for p̂), the 2019 code sums logits (`logit_sum`) and finds that better for multi-label data;
`min` and `median` are those of the count-min and count-median sketch that the 2019 paper builds on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Estimator:
    """How the scores of a label's buckets are combined."""

    reads: str  # the score of a bucket: ``logit``, ``probability`` or ``log_probability``
    combine: str  # over repetitions: ``sum``, ``min``, ``median``, or ``top_buckets`` (approximate)
    mean: bool = False  # the sum is divided by R at the end
    unbiased: bool = False  # the mean is then mapped to B/(B−1) · (mean − 1/B)

    @property
    def exact(self) -> bool:
        """Whether the ranking is that over all labels."""
        return self.combine != "top_buckets"

    def finish(self, scores: npt.NDArray[np.float32], R: npt.NDArray[np.int64], B: int) -> npt.NDArray[np.float32]:
        """Combined scores [P, N, k] of the first R[p] repetitions → the estimator's values; order is kept.

        Raises ValueError for `unbiased` with a single bucket, where every label has the same score.
        """
        if self.mean:
            scores = scores / R.astype(np.float32)[:, None, None]
        if self.unbiased:
            if B < 2:
                raise ValueError("estimator unbiased needs at least 2 buckets, found B=1")
            scores = np.float32(B / (B - 1)) * (scores - np.float32(1 / B))
        return scores


ESTIMATORS = {
    "logit_sum": Estimator("logit", "sum"),
    "mean": Estimator("probability", "sum", mean=True),
    "unbiased": Estimator("probability", "sum", mean=True, unbiased=True),
    "log_prob_sum": Estimator("log_probability", "sum"),
    "min": Estimator("probability", "min"),
    "median": Estimator("probability", "median"),
    "top_buckets": Estimator("logit", "top_buckets"),
}


def estimator_names(setting: str) -> list[str]:
    """The estimators of a setting such as ``logit_sum+mean``; ValueError for an unknown or repeated one."""
    names = setting.split("+")
    for name in names:
        if name not in ESTIMATORS:
            raise ValueError(f"unknown estimator {name!r}; known: {', '.join(ESTIMATORS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"estimator {setting!r} names one twice")
    return names
