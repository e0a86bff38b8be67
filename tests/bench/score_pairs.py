"""Score files as text, for the tests that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_score_pairs(path: Path, scores: NDArray[Any], labels: NDArray[np.integer[Any]]) -> None:
    """Write scores and labels [n, k] as lines ``label:score label:score``, best first; -1: no label."""
    with path.open("w", encoding="ascii") as file:
        for point_scores, point_labels in zip(scores, labels, strict=True):
            pairs = zip(point_labels.tolist(), point_scores.tolist(), strict=True)
            file.write(" ".join(f"{label}:{score!r}" for label, score in pairs if label >= 0) + "\n")
