"""The libraries of the external methods on the tiny twin; skipped where an environment cannot be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from baselines.external.external_method import ExternalMethod
from baselines.external.napkinxc_plt import NapkinxcPLT
from baselines.external.omikuji_trees import OmikujiTrees
from baselines.external.pecos_xrlinear import PecosXRLinear
from baselines.label_frequency import LabelFrequency
from bench.data import Dataset, load_dataset
from bench.metrics.ranking import evaluate

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "method"
K = 5

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("tiny")


def prepared(method: type[Any], config: str, **chosen: Any) -> ExternalMethod:
    settings: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{config}.yaml")["settings"])
    ready: ExternalMethod = method(**{**settings, **chosen})
    try:
        ready.prepare(seed=1, threads=1)
    except NotImplementedError as error:
        pytest.skip(str(error))
    return ready


def fitted(method: ExternalMethod, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    method.fit(data.train.X, data.train.Y)
    return method.topk(data.test.X, K)


def assert_learned(method: ExternalMethod, data: Dataset, scores: np.ndarray, labels: np.ndarray) -> None:
    floor = LabelFrequency()
    floor.fit(data.train.X, data.train.Y)
    frequent = evaluate(floor.topk(data.test.X, K)[1], data.test.Y)["P@1"]
    assert evaluate(labels, data.test.Y)["P@1"] > 2 * frequent
    assert (np.diff(scores, axis=1) <= 0).all()
    assert labels.max() < data.train.Y.shape[1]
    facts = method.facts()
    assert facts["library"] == method.requirements[0].replace("==", " ")
    for column in ("fit_s", "predict_s", "peak_host_bytes", "model_bytes", "params_output"):
        assert facts[column] > 0, column


def test_pecos_learns_and_gives_the_same_twice(data: Dataset) -> None:
    first, second = (prepared(PecosXRLinear, "pecos_xrlinear", max_leaf_size=20) for _ in range(2))
    scores, labels = fitted(first, data)
    assert_learned(first, data, scores, labels)
    again = fitted(second, data)
    np.testing.assert_array_equal(scores, again[0])
    np.testing.assert_array_equal(labels, again[1])


def test_napkinxc_learns_and_gives_the_same_twice_with_adagrad(data: Dataset) -> None:
    chosen = {"optimizer": "adagrad", "online_epochs": 3, "max_leaves": 20}
    first, second = (prepared(NapkinxcPLT, "napkinxc_plt", **chosen) for _ in range(2))
    scores, labels = fitted(first, data)
    assert_learned(first, data, scores, labels)
    again = fitted(second, data)
    np.testing.assert_array_equal(scores, again[0])
    np.testing.assert_array_equal(labels, again[1])


def test_omikuji_learns_from_points_that_lack_features_or_labels(data: Dataset) -> None:
    X, Y = data.train.X.tolil(), data.train.Y.tolil()
    X[0], X[1], Y[1], Y[2] = 0, 0, 0, 0
    X, Y = X.tocsr(), Y.tocsr()
    X.eliminate_zeros()
    Y.eliminate_zeros()
    method = prepared(OmikujiTrees, "omikuji_parabel")
    method.fit(X, Y)
    test = data.test.X.tolil()
    test[3] = 0
    test = test.tocsr()
    test.eliminate_zeros()
    scores, labels = method.topk(test, K)
    assert_learned(method, data, scores, labels)
    assert (labels[3] >= 0).all()  # a point without features gets a ranking too
