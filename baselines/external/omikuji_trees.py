"""omikuji's label trees: Parabel (Prabhu et al., WWW 2018) and Bonsai (Khandagale et al., 2020), by their settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import scipy.sparse as sp

from baselines.external import omikuji_child
from baselines.external.external_method import ExternalMethod, at_least

LOSSES = {"hinge": 0, "log": 1}


class OmikujiTrees(ExternalMethod):
    """An ensemble of label trees with one-vs-all linear classifiers in the nodes.

    The library scales every point to length 1 itself. It draws its trees from the machine's randomness and takes no
    seed: results differ from run to run.
    """

    library = "omikuji"
    requirements = (
        "omikuji==0.5.2",
        "cffi==2.0.0",
        "pycparser==2.23",
        "numpy==2.3.5",
        "cbor2==5.7.1",  # reads the saved trees, to count their weights
    )
    script = omikuji_child.__file__
    reproducible = False

    def __init__(
        self,
        *,
        n_trees: Annotated[int, ">= 1"],
        cluster_k: Annotated[int, ">= 2"],
        cluster_balanced: bool,
        max_depth: Annotated[int, ">= 1"],
        min_branch_size: Annotated[int, ">= 1"],
        collapse_every_n_layers: Annotated[int, ">= 0"],
        loss: Literal["hinge", "log"],
        linear_c: Annotated[float, "> 0"],
        weight_threshold: Annotated[float, ">= 0"],
        beam_size: Annotated[int, ">= 1"],
        max_sparse_density: Annotated[float, ">= 0"],
    ) -> None:
        """Settings as in configs/method/omikuji_parabel.yaml; ValueError when one is out of its range."""
        at_least(1, n_trees=n_trees, max_depth=max_depth, min_branch_size=min_branch_size, beam_size=beam_size)
        at_least(2, cluster_k=cluster_k)
        at_least(0, collapse_every_n_layers=collapse_every_n_layers, weight_threshold=weight_threshold)
        at_least(0, max_sparse_density=max_sparse_density)
        if not linear_c > 0:
            raise ValueError(f"linear_c: found {linear_c!r}; expected a positive number")
        if loss not in LOSSES:
            raise ValueError(f"loss: found {loss!r}; expected one of {', '.join(LOSSES)}")
        hyper_parameters = {
            "n_trees": n_trees,
            "cluster_k": cluster_k,
            "cluster_balanced": cluster_balanced,
            "max_depth": max_depth,
            "min_branch_size": min_branch_size,
            "collapse_every_n_layers": collapse_every_n_layers,
            "linear_loss_type": LOSSES[loss],
            "linear_c": linear_c,
            "linear_weight_threshold": weight_threshold,
        }
        prediction = {"beam_size": beam_size, "max_sparse_density": max_sparse_density}
        super().__init__({"hyper_parameters": hyper_parameters, **prediction})

    def write_points(self, folder: Path, split: str, X: sp.csr_matrix) -> None:
        if split == "test":  # the train points are written with their labels
            np.savez(folder / "test.npz", indptr=X.indptr, indices=X.indices, data=X.data)

    def write_labels(self, folder: Path, X: sp.csr_matrix, Y: sp.csr_matrix) -> None:
        with (folder / "train.txt").open("w", encoding="ascii") as file:
            file.writelines(xmc_lines(X, Y))


def xmc_lines(X: sp.csr_matrix, Y: sp.csr_matrix) -> Iterator[str]:
    """The field's text format: ``points features labels``, then ``l1,l2 f:v f:v`` per point, ids from 0.

    Nine digits distinguish all float32 values. A point without features ends after its labels, without a space, because
    the library's reader refuses one. Points without features and labels would be empty lines and are left out: a model
    cannot learn from them.
    """
    kept = np.flatnonzero((np.diff(X.indptr) > 0) | (np.diff(Y.indptr) > 0))
    yield f"{len(kept)} {X.shape[1]} {Y.shape[1]}\n"
    for n in kept.tolist():
        x, y = slice(*X.indptr[n : n + 2]), slice(*Y.indptr[n : n + 2])
        labels = ",".join(map(str, Y.indices[y].tolist()))
        pairs = zip(X.indices[x].tolist(), X.data[x].tolist(), strict=True)
        features = "".join(f" {feature}:{value:.9g}" for feature, value in pairs)
        yield f"{labels}{features}\n"
