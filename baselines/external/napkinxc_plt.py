"""napkinXC's probabilistic label trees (Jasinska-Kobus et al., 2020)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import scipy.sparse as sp

from baselines.external import napkinxc_child
from baselines.external.external_method import ExternalMethod, at_least

OPTIMISERS = ("liblinear", "adagrad", "sgd")
SEARCHES = ("exact", "beam")


class NapkinxcPLT(ExternalMethod):
    """A tree of logistic regressions whose products are label probabilities.

    The library scales every point to length 1 itself. The seed does not control the randomness of its liblinear
    solver; with ``optimizer: adagrad`` results are reproducible.
    """

    library = "napkinxc"
    requirements = ("napkinxc==0.7.2", "numpy==2.3.5", "scipy==1.16.3")
    script = napkinxc_child.__file__

    def __init__(
        self,
        *,
        arity: Annotated[int, ">= 2"],
        max_leaves: Annotated[int, ">= 2"],
        ensemble: Annotated[int, ">= 1"],
        optimizer: Literal["liblinear", "adagrad", "sgd"],
        liblinear_c: Annotated[float, "> 0"],
        online_epochs: Annotated[int, ">= 1"],
        eta: Annotated[float, "> 0"],
        weights_threshold: Annotated[float, ">= 0"],
        tree_search_type: Literal["exact", "beam"],
        beam_search_width: Annotated[int, ">= 1"],
    ) -> None:
        """Settings as in configs/method/napkinxc_plt.yaml; ValueError when one is out of its range."""
        at_least(2, arity=arity, max_leaves=max_leaves)
        at_least(1, ensemble=ensemble, online_epochs=online_epochs, beam_search_width=beam_search_width)
        at_least(0, weights_threshold=weights_threshold)
        for name, value in (("liblinear_c", liblinear_c), ("eta", eta)):
            if not value > 0:
                raise ValueError(f"{name}: found {value!r}; expected a positive number")
        for name, found, known in (
            ("optimizer", optimizer, OPTIMISERS),
            ("tree_search_type", tree_search_type, SEARCHES),
        ):
            if found not in known:
                raise ValueError(f"{name}: found {found!r}; expected one of {', '.join(known)}")
        super().__init__(
            {
                "arity": arity,
                "max_leaves": max_leaves,
                "ensemble": ensemble,
                "optimizer": optimizer,
                "liblinear_c": liblinear_c,
                "epochs": online_epochs,
                "eta": eta,
                "weights_threshold": weights_threshold,
                "tree_search_type": tree_search_type,
                "beam_search_width": beam_search_width,
            }
        )
        self.reproducible = optimizer == "adagrad"

    def write_points(self, folder: Path, split: str, X: sp.csr_matrix) -> None:
        sp.save_npz(folder / f"{split}_X.npz", X.astype(np.float32, copy=False), compressed=False)

    def write_labels(self, folder: Path, X: sp.csr_matrix, Y: sp.csr_matrix) -> None:
        del X
        sp.save_npz(folder / "train_Y.npz", Y, compressed=False)
