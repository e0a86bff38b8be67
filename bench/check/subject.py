"""The method under check and what the checks give it: points of the tiny twin, some without labels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from bench.check.outcome import expect
from bench.config.experiment import unfold
from bench.config.spec import RunSpec, derive_seed
from bench.data import Dataset, load_dataset
from bench.model.built_method import BuiltClassifier, BuiltLayer
from bench.model.methods import Method, method_class
from bench.results.record import RunRecord
from bench.results.run_folder import RunFolder
from bench.run.execute import execute

DATASET = "tiny"
# Enough for every sound method to pass the floor in a second or so.
TRAIN = {"hidden": "32", "epochs": 5, "batch_size": 64, "validate_every": 0, "device": "cpu"}
N_POINTS = 64
TOP_K = 10


@dataclass(frozen=True)
class Subject:
    """A method by the spec of a short run on the tiny twin."""

    spec: RunSpec

    @classmethod
    def of(cls, method: str) -> Subject:
        """A name under configs/method/ or a YAML path; of swept settings the first. InputError when there is none."""
        name = Path(method).stem
        config = {"dataset": DATASET, "train": TRAIN, "methods": {name: {"method": method}}}
        return cls(next(unfold(config, f"check {method}")))

    @cached_property
    def target(self) -> Any:
        """The method's class. InputError when there is none."""
        return method_class(self.spec.target)

    @cached_property
    def method(self) -> Method:
        """The method with its settings. InputError where a run would refuse it."""
        return Method.load(self.spec.target, self.spec.settings)

    @property
    def is_classifier(self) -> bool:
        """It has ``fit``, and so is no output layer."""
        return self.method.is_classifier

    @cached_property
    def data(self) -> Dataset:
        return load_dataset(DATASET)

    @property
    def n_labels(self) -> int:
        return int(self.data.train.Y.shape[1])

    @property
    def hidden(self) -> int:
        """Width of the last hidden layer."""
        return self.spec.train.hidden_sizes()[-1]

    @cached_property
    def labels(self) -> sp.csr_matrix:
        """Labels of some train points [N, n_labels]; the first and the sixth have none."""
        return emptied(self.data.fit.Y[:N_POINTS], [0, 5])

    def build(self, settings: Mapping[str, Any] | None = None) -> Any:
        """The method as a run builds it, with its own settings or others; a classifier is prepared as well."""
        method = self.method if settings is None else self.method.with_settings(settings)
        if not method.is_classifier:
            return method.build_layer(self.hidden, self.data.fit.Y, self.spec.seed)
        classifier = method.build_classifier()
        BuiltClassifier(classifier).prepare(seed=derive_seed(self.spec.seed, "initialisation"), threads=1)
        return classifier

    @cached_property
    def layer(self) -> Any:
        """An untrained output layer, for checks that leave it as it is."""
        return self.build()

    @cached_property
    def built(self) -> BuiltLayer:
        """That layer with its capabilities."""
        return BuiltLayer.of(self.layer)

    @cached_property
    def fitted(self) -> Any:
        """A classifier fitted to the train points, a few of them without features or without labels."""
        classifier = self.build()
        X, Y = emptied(self.data.fit.X, [1, 2]), emptied(self.data.fit.Y, [0, 5])
        for matrix in (X, Y):
            guarded(matrix)
        classifier.fit(X, Y)
        return classifier

    @cached_property
    def run(self) -> tuple[RunRecord, dict[str, npt.NDArray[Any]]]:
        """Record and kept predictions of a run, made as `bench.run.execute` makes them but in this process."""
        with tempfile.TemporaryDirectory() as results:
            folder = RunFolder.create(Path(results) / "check" / "runs", "check", self.spec)
            record = execute(self.spec, folder, lambda _: None)
            with np.load(folder.path / "topk.npz", allow_pickle=False) as kept:
                return record, dict(kept)

    def activations(self, n_points: int = N_POINTS) -> Tensor:
        """Hidden activations as after a ReLU, [N, H], or [R, N, H] for a layer with repetitions; float32."""
        repetitions = self.built.repetitions
        shape = (n_points, self.hidden) if repetitions is None else (repetitions, n_points, self.hidden)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu()


def emptied(matrix: sp.csr_matrix, rows: Collection[int]) -> sp.csr_matrix:
    """A copy with nothing in some rows."""
    keep = sp.diags([0.0 if row in rows else 1.0 for row in range(matrix.shape[0])], dtype="float32")
    copy = sp.csr_matrix(keep @ matrix)
    copy.eliminate_zeros()
    return copy


def guarded(matrix: sp.csr_matrix) -> None:
    """Make its arrays read-only, as those of a dataset are."""
    for array in (matrix.data, matrix.indices, matrix.indptr):
        array.flags.writeable = False


def finite(tensor: Tensor, name: str) -> None:
    """Failed, unless every number is finite."""
    values = tensor.coalesce().values() if tensor.is_sparse else tensor
    expect(bool(torch.isfinite(values).all()), f"{name} with NaN or infinite values", "finite numbers")


Check = Callable[[Subject], str]  # named by its function; returns what it found right
