"""PECOS's XR-Linear (Yu et al., JMLR 2022): linear rankers down a tree of label clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import scipy.sparse as sp

from baselines.external import pecos_child
from baselines.external.external_method import ExternalMethod, at_least, unit_rows

SAMPLINGS = ("tfn", "man", "tfn+man")


class PecosXRLinear(ExternalMethod):
    """Squared-hinge linear rankers on a tree of balanced label clusters, searched with a beam.

    The library does not scale points, so they are scaled to length 1 here, as in its own experiments. Results are
    reproducible.
    """

    library = "libpecos"
    requirements = (
        "libpecos==1.2.8",  # its pins: numpy below 2, scipy below 1.14; what only its transformers need is left out
        "numpy==1.26.4",
        "scipy==1.13.1",
        "scikit-learn==1.5.2",
        "joblib==1.4.2",
        "threadpoolctl==3.5.0",
    )
    script = pecos_child.__file__
    reproducible = True

    def __init__(
        self,
        *,
        nr_splits: Annotated[int, ">= 2"],
        max_leaf_size: Annotated[int, ">= 1"],
        negative_sampling: Literal["tfn", "man", "tfn+man"],
        cost: Annotated[float, "> 0"],
        threshold: Annotated[float, ">= 0"],
        beam_size: Annotated[int, ">= 1"],
    ) -> None:
        """Settings as in configs/method/pecos_xrlinear.yaml; ValueError when one is out of its range."""
        at_least(2, nr_splits=nr_splits)
        at_least(1, max_leaf_size=max_leaf_size, beam_size=beam_size)
        at_least(0, threshold=threshold)
        if not cost > 0:
            raise ValueError(f"cost: found {cost!r}; expected a positive number")
        if negative_sampling not in SAMPLINGS:
            raise ValueError(f"negative_sampling: found {negative_sampling!r}; expected one of {', '.join(SAMPLINGS)}")
        super().__init__(
            {
                "nr_splits": nr_splits,
                "max_leaf_size": max_leaf_size,
                "negative_sampling": negative_sampling,
                "cost": cost,
                "threshold": threshold,
                "beam_size": beam_size,
            }
        )

    def write_points(self, folder: Path, split: str, X: sp.csr_matrix) -> None:
        sp.save_npz(folder / f"{split}_X.npz", unit_rows(X), compressed=False)

    def write_labels(self, folder: Path, X: sp.csr_matrix, Y: sp.csr_matrix) -> None:
        del X
        # by columns: the library would convert it anyway, within the measured time
        sp.save_npz(folder / "train_Y.npz", sp.csc_matrix(Y, dtype=np.float32), compressed=False)
