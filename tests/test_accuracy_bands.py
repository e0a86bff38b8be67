"""Each neural layer learns as well as it did when its band was measured, on a part of `icd10cm`.

A band is an interval of P@1 and one of P@5 around what five seeds reached. Training ends before accuracy is at its
highest, so that both learning too slowly and learning too fast leave the band. That they do is tested as well: with
weights of the encoder or of the output layer that start thirty times as large, and with a learning rate that is wrong
by a factor of ten in either direction.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.config.experiment import unfold
from bench.data import load_dataset
from bench.data.formats.export import write_xmlrepo
from bench.results.run_folder import RunFolder
from bench.run.execute import execute

N_LABELS, N_TRAIN, N_TEST = 1000, 4000, 1500
TRAIN = {"hidden": 32, "batch_size": 64, "validate_every": 0, "top_k": 5, "device": "cpu", "threads": 1}
CARD = """
title: the most frequent labels of icd10cm
source: files
origin: a part of icd10cm
licence: that of icd10cm
parameters: {train: train.txt, test: test.txt}
"""


@dataclass(frozen=True)
class Band:
    """What a layer is trained with, and the accuracy that is expected of it."""

    epochs: int
    settings: dict[str, Any]
    p1: tuple[float, float]
    p5: tuple[float, float]


# Beside each band: the lowest and highest value of seeds 0 to 4, and P@1 of seed 0 where the encoder's weights, or the
# output layer's, start thirty times as large, and with a tenth and ten times the learning rate.
BANDS = {
    # P@1 0.653 to 0.657, P@5 0.212 to 0.218; 0.331, 0.565, 0.102, 0.355
    "mach": Band(4, {"B": 128, "R": 4}, (0.625, 0.685), (0.202, 0.228)),
    # P@1 0.676 to 0.685, P@5 0.211 to 0.216; 0.383, 0.573, 0.095, 0.629
    "full_softmax": Band(8, {}, (0.655, 0.705), (0.203, 0.224)),
    # P@1 0.453 to 0.469, P@5 0.154 to 0.157; 0.327, 0.406, 0.043, 0.329
    "one_vs_all": Band(6, {}, (0.435, 0.490), (0.145, 0.166)),
    # P@1 0.479 to 0.489, P@5 0.155 to 0.159; 0.342, 0.405, 0.049, 0.629
    "sampled_softmax": Band(6, {"n_samples": 256}, (0.455, 0.515), (0.147, 0.168)),
    # P@1 0.471 to 0.491, P@5 0.139 to 0.142; 0.229, 0.013, 0.043, 0.543
    "adaptive_softmax": Band(6, {}, (0.450, 0.515), (0.131, 0.151)),
    # P@1 0.643 to 0.659, P@5 0.206 to 0.210; 0.321, 0.010, 0.075, 0.017
    "bottleneck": Band(4, {}, (0.620, 0.685), (0.197, 0.220)),
}


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a card, part.yaml: points drawn from those that have one of the most frequent labels."""
    data, folder = load_dataset("icd10cm"), tmp_path_factory.mktemp("bands")
    counts = np.asarray(data.train.Y.sum(0)).ravel()
    labels = np.sort(np.argsort(-counts, kind="stable")[:N_LABELS])
    for name, split, n_points in (("train", data.train, N_TRAIN), ("test", data.test, N_TEST)):
        Y = split.Y[:, labels]
        labelled = np.flatnonzero(np.diff(Y.indptr))
        rows = np.sort(np.random.default_rng(0).permutation(labelled)[:n_points])
        write_xmlrepo(folder / f"{name}.txt", split.X[rows], Y[rows])
    (folder / "part.yaml").write_text(CARD)
    return folder


@pytest.fixture(autouse=True)
def _in_the_folder(part: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MACHBENCH_CACHE", str(part / "cache"))
    monkeypatch.chdir(part)
    threads = torch.get_num_threads()
    load_dataset("part.yaml")
    yield
    torch.set_num_threads(threads)


def accuracy(method: str, folder: Path, seed: int = 0, rate: float = 1.0) -> tuple[float, float]:
    """P@1 and P@5 of a run; its learning rate is that of the method's configuration times ``rate``."""
    band = BANDS[method]
    train = {**TRAIN, "epochs": band.epochs, "holdout": False}
    config = {"dataset": "part.yaml", "seeds": [seed], "train": train, "methods": {method: band.settings}}
    (spec,) = unfold(config, "test")
    spec = replace(spec, train=replace(spec.train, lr=spec.train.lr * rate))
    run = RunFolder.create(folder / "results" / "bands" / "runs", f"{method}-s{seed}-x{rate}", spec)
    run.write_record(execute(spec, run, lambda _: None))
    *_, own = json.loads((run.path / "record.json").read_text())["rows"]
    return own["P@1"], own["P@5"]


def is_within(method: str, found: tuple[float, float]) -> bool:
    band = BANDS[method]
    return all(low <= value <= high for value, (low, high) in zip(found, (band.p1, band.p5), strict=True))


@pytest.mark.parametrize("method", BANDS)
def test_accuracy_is_within_its_band(part: Path, method: str) -> None:
    found = accuracy(method, part)
    assert is_within(method, found), (found, BANDS[method])


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
@pytest.mark.parametrize("method", BANDS)
def test_bands_hold_for_other_seeds(part: Path, method: str, seed: int) -> None:
    found = accuracy(method, part, seed)
    assert is_within(method, found), (found, BANDS[method])


@pytest.mark.soak
@pytest.mark.parametrize("rate", [0.1, 10.0])
@pytest.mark.parametrize("method", BANDS)
def test_bands_notice_a_wrong_learning_rate(part: Path, method: str, rate: float) -> None:
    found = accuracy(method, part, rate=rate)
    assert not is_within(method, (found[0], sum(BANDS[method].p5) / 2)), found  # by P@1 alone


@pytest.mark.soak
@pytest.mark.parametrize(("drawn_by", "of"), [("normal_", "encoder"), ("uniform_", "output")])
@pytest.mark.parametrize("method", BANDS)
def test_bands_notice_a_thirtyfold_initialisation(
    part: Path, monkeypatch: pytest.MonkeyPatch, method: str, drawn_by: str, of: str
) -> None:
    """The feature bag is the one user of ``normal_`` here, the output layers are those of ``uniform_``."""
    original, shapes = getattr(torch.Tensor, drawn_by), []

    def thirtyfold(tensor: torch.Tensor, low_or_mean: float, high_or_std: float, **more: Any) -> torch.Tensor:
        shapes.append(tuple(tensor.shape))
        drawn: torch.Tensor = original(tensor, low_or_mean, high_or_std, **more)
        return drawn.mul_(30)

    table = (load_dataset("part.yaml").train.X.shape[1], TRAIN["hidden"])
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, drawn_by, thirtyfold)
        found = accuracy(method, part)
    assert shapes
    assert all((shape == table) == (of == "encoder") for shape in shapes), shapes
    assert not is_within(method, (found[0], sum(BANDS[method].p5) / 2)), found
