"""What a method that is not a network brings; everything round it is the harness's and the same for all."""

from __future__ import annotations

from typing import Protocol

import scipy.sparse as sp

from bench.predict import Ranking


class Classifier(Protocol):
    """A method that learns and ranks in its own way, made from the settings of its YAML as keywords.

    Optional: ``prepare(seed, threads)``, called before ``fit`` on the clock of ``build_s`` with a seed for its
    randomness and the run's threads (0 = all cores); NotImplementedError there makes the run ``unsupported``, with its
    reason. ``facts()``, called last, a dict of more columns of the results; those that the harness measures too
    (``fit_s``, ``predict_s``, ``peak_host_bytes``) go before its own numbers: a method that works in another process
    measures there, and what its ``fit`` took beyond ``fit_s`` is counted as ``build_s``. ``batched``: where it is
    False, ``topk`` gets all points in one call. ``reproducible``: False where the same settings and seed may give other
    predictions.
    """

    def fit(self, X: sp.csr_matrix, Y: sp.csr_matrix) -> None:
        """X CSR [N, n_features], Y CSR [N, n_labels]."""

    def topk(self, X: sp.csr_matrix, k: int) -> Ranking:
        """(scores [N, k] float32, labels [N, k] int32), best first, ties by lowest label id, −1 where there is none."""
