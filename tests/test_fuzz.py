"""Random edits of what comes from outside: each gives the right value or one line that says what is wrong.

Experiment files, datasets, results folders and score files are edited at random for a minute, and verbs of the command
line read them. `MACHBENCH_FUZZ_S` sets the seconds, `MACHBENCH_TEST_SEED` the first seed; a failure names its seed.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.__main__ import main
from bench.data import load_dataset
from bench.metrics.ranking import evaluate
from bench.results.table import load_results

SECONDS = float(os.environ.get("MACHBENCH_FUZZ_S", "15"))  # for each of the four kinds
FIRST_SEED = int(os.environ.get("MACHBENCH_TEST_SEED", "0"))
Draw = np.random.Generator

pytestmark = pytest.mark.soak


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


def machbench(*arguments: str) -> Ended:
    """A verb in this process; whatever is raised but an exit is a failure of the test."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["machbench", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return Ended(status, out.getvalue(), err.getvalue())


def assert_a_line(ended: Ended) -> None:
    """A refused request: exit status 2 and at least one line that begins with the program's name; no traceback."""
    assert ended.status == 2, ended
    assert ended.err.startswith("machbench: "), ended
    assert "Traceback" not in ended.err + ended.out, ended
    assert "defect" not in ended.err, ended


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def seeds() -> Iterator[int]:
    """Seeds until the time is over, at least one."""
    end, seed = time.monotonic() + SECONDS, FIRST_SEED
    while seed == FIRST_SEED or time.monotonic() < end:
        yield seed
        seed += 1


# ── Edits ──


def flip(data: bytes, draw: Draw) -> bytes:
    """One byte becomes another."""
    if not data:
        return b"x"
    at = int(draw.integers(len(data)))
    return data[:at] + bytes([int(draw.integers(256))]) + data[at + 1 :]


def cut(data: bytes, draw: Draw) -> bytes:
    """The end is missing."""
    return data[: int(draw.integers(len(data) + 1))]


def repeat_line(data: bytes, draw: Draw) -> bytes:
    lines = data.split(b"\n")
    at = int(draw.integers(len(lines)))
    return b"\n".join(lines[: at + 1] + lines[at:])


def drop_line(data: bytes, draw: Draw) -> bytes:
    lines = data.split(b"\n")
    at = int(draw.integers(len(lines)))
    return b"\n".join(lines[:at] + lines[at + 1 :])


ODD = [b"-1", b"1e3", b"nan", b"inf", b"99999999999", b"0x10", b"", b"\x00", "é".encode(), b"null", b"[1, 2]", b"1.5"]
ODD += [b"{}", b"true", b"'", b'"', b": ", b"2147483648", b"-0.0", b"1e400", b"../x", b"\xff\xfe", b"\t"]


def put_in(data: bytes, draw: Draw) -> bytes:
    """Something odd takes the place of a few bytes."""
    at, length = int(draw.integers(len(data) + 1)), int(draw.integers(4))
    return data[:at] + ODD[int(draw.integers(len(ODD)))] + data[at + length :]


def swap_token(data: bytes, draw: Draw) -> bytes:
    """A whole word or number becomes something odd."""
    tokens = data.split(b" ")
    tokens[int(draw.integers(len(tokens)))] = ODD[int(draw.integers(len(ODD)))]
    return b" ".join(tokens)


def other_digit(data: bytes, draw: Draw) -> bytes:
    """A digit becomes another one: often still plain text, with another meaning."""
    digits = [at for at, byte in enumerate(data) if chr(byte).isdigit()]
    if not digits:
        return data
    at = digits[int(draw.integers(len(digits)))]
    return data[:at] + str(int(draw.integers(10))).encode() + data[at + 1 :]


EDITS: tuple[Callable[[bytes, Draw], bytes], ...] = (flip, cut, repeat_line, drop_line, put_in, swap_token, other_digit)


def edited(data: bytes, draw: Draw) -> bytes:
    """One to three random edits."""
    for _ in range(int(draw.integers(1, 4))):
        data = EDITS[int(draw.integers(len(EDITS)))](data, draw)
    return data


# Edits that change nothing of what a text says.
HARMLESS: tuple[Callable[[bytes], bytes], ...] = (
    lambda data: b"\xef\xbb\xbf" + data,
    lambda data: data.replace(b"\n", b"\r\n"),
    lambda data: data + b"\n\n",
    gzip.compress,
)


def harmless(data: bytes, draw: Draw) -> bytes:
    order = [at for at in range(len(HARMLESS)) if draw.random() < 0.4]  # packed last
    for at in sorted(order):
        data = HARMLESS[at](data)
    return data


# ── A dataset, an experiment, results ──

N_LABELS = 6
EXPERIMENT = b"""description: fuzz
dataset: own
seeds: [0, 1]
train: {hidden: 16, epochs: 1, batch_size: 64, lr: 0.02, top_k: 6}
methods:
  label_frequency: {}
  mach: {B: 8, R: 2, estimator: mean}
  full_softmax: {}
"""


def data_text(n: int, draw: Draw, header: bool) -> bytes:
    lines = []
    for _ in range(n):
        labels = sorted(draw.choice(N_LABELS, int(draw.integers(1, 3)), replace=False).tolist())
        features = sorted(draw.choice(5, int(draw.integers(1, 4)), replace=False).tolist())
        values = [f"{feature}:{round(float(draw.random()) + 0.1, 3)}" for feature in features]
        lines.append(f"{','.join(map(str, labels))} {' '.join(values)}")
    head = [f"{n} 5 {N_LABELS}"] if header else []
    return ("\n".join(head + lines) + "\n").encode()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a dataset ``own`` that is imported, and its experiment."""
    monkeypatch.setenv("MACHBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(7)
    for split, n in (("train", 40), ("test", 10)):
        (tmp_path / f"{split}.txt").write_bytes(data_text(n, draw, header=True))
    (tmp_path / "e.yaml").write_bytes(EXPERIMENT)
    assert machbench("data", "import", "own", "--train", "train.txt", "--test", "test.txt").status == 0
    return tmp_path


# ── Plain readings, of what is written in the plainest way ──

PLAIN_POINT = re.compile(r"(\d{1,9}(,\d{1,9})*)?( \d{1,9}:-?\d{1,6}(\.\d{1,6})?)*")
PLAIN_PAIRS = re.compile(r"\d{1,9}:-?\d{1,6}(\.\d{1,6})?( \d{1,9}:-?\d{1,6}(\.\d{1,6})?)*")


def plain_data(text: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Dense X and Y of plain text with a header; None for any other text."""
    try:
        head, *lines = text.decode("ascii").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        return None
    if not re.fullmatch(r"\d{1,6} \d{1,6} \d{1,6}", head):
        return None
    n, n_features, n_labels = map(int, head.split())
    if len(lines) != n or n > 1000 or not all(PLAIN_POINT.fullmatch(line) for line in lines):
        return None
    X, Y = np.zeros((n, n_features), np.float32), np.zeros((n, n_labels), np.float32)
    for at, line in enumerate(lines):
        labels, *features = line.split(" ")
        pairs = [(int(feature), float(value)) for feature, value in (pair.split(":") for pair in features)]
        ids = [int(label) for label in labels.split(",") if label]
        if any(feature >= n_features for feature, _ in pairs) or any(label >= n_labels for label in ids):
            return None
        for feature, value in pairs:
            X[at, feature] += np.float32(value)
        Y[at, ids] = 1
    return X, Y


def plain_ranking(text: bytes, n: int) -> list[list[int]] | None:
    """Labels of each point, best first, of plain text pairs; None for any other text."""
    try:
        lines = text.decode("ascii").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        return None
    if len(lines) != n or not all(PLAIN_PAIRS.fullmatch(line) for line in lines):
        return None
    ranking = []
    for line in lines:
        pairs = [(int(label), float(score)) for label, score in (pair.split(":") for pair in line.split(" "))]
        labels = [label for label, _ in pairs]
        if len(set(labels)) != len(labels) or max(labels) >= N_LABELS:
            return None
        scores = [score for _, score in pairs]
        if any(later > earlier for earlier, later in itertools.pairwise(scores)):  # not ranked yet
            pairs.sort(key=lambda pair: (-pair[1], pair[0]))
        ranking.append([label for label, _ in pairs])
    return ranking


# ── The four kinds ──


@pytest.mark.usefixtures("own")
def test_datasets() -> None:
    accepted = 0
    for seed in seeds():
        draw = np.random.default_rng([1, seed])
        clean = data_text(8, draw, header=True)
        Path("clean.txt").write_bytes(clean)
        Path("same.txt").write_bytes(harmless(clean, draw))
        found = []
        for name in ("clean", "same"):
            ended = machbench("data", "import", "other", "--train", "train.txt", "--test", f"{name}.txt")
            assert ended.status == 0, (seed, ended)
            found.append(load_dataset("other").fingerprint)
        assert found[0] == found[1], seed

        text = edited(clean, draw)
        Path("edited.txt").write_bytes(text)
        ended = machbench("data", "import", "other", "--train", "train.txt", "--test", "edited.txt")
        right = plain_data(text)
        if ended.status != 0:
            assert_a_line(ended)
            assert right is None or right[0].shape[0] == 0 or not right[0].any(), (seed, ended, text)
        elif right is not None:
            data = load_dataset("other")
            for mine, theirs in ((data.test.X, right[0]), (data.test.Y, right[1])):
                assert np.array_equal(mine.toarray()[:, : theirs.shape[1]], theirs), (seed, text)
            accepted += 1
    assert accepted or SECONDS < 5


@pytest.mark.usefixtures("own")
def test_score_files() -> None:
    data, accepted = load_dataset("own"), 0
    n = len(data.test)
    for seed in seeds():
        draw = np.random.default_rng([2, seed])
        rows = [draw.permutation(N_LABELS)[:4] for _ in range(n)]
        clean = "".join(
            " ".join(f"{label}:{score:.3f}" for label, score in zip(row, sorted(draw.random(4))[::-1], strict=True))
            + "\n"
            for row in rows
        ).encode()
        for text in (harmless(clean, draw), edited(clean, draw)):
            Path("scores.txt").write_bytes(text)
            ended = machbench("score", "files", "--file", "scores.txt", "--dataset", "own", "--method", "m")
            right = plain_ranking(clean if text[:2] == b"\x1f\x8b" or b"\r" in text else text, n)
            if ended.status != 0:
                assert_a_line(ended)
                assert right is None, (seed, ended, text)
            elif right is not None:
                labels = np.array([row + [-1] * (N_LABELS - len(row)) for row in right])
                expected = evaluate(labels, data.test.Y, data.train.Y)
                (row,) = load_results("results/files").to_dict("records")
                assert {k: row[k] for k in ("P@1", "P@3", "P@5")} == {k: expected[k] for k in ("P@1", "P@3", "P@5")}, (
                    seed
                )
                accepted += 1
    assert accepted or SECONDS < 5


@pytest.mark.usefixtures("own")
def test_experiment_files() -> None:
    assert machbench("plan", "e.yaml", "--json", "clean.json").status == 0
    clean = json.loads(Path("clean.json").read_text())
    for seed in seeds():
        draw = np.random.default_rng([3, seed])
        Path("e.yaml").write_bytes(harmless(EXPERIMENT, draw))
        packed = Path("e.yaml").read_bytes()[:2] == b"\x1f\x8b"
        ended = machbench("plan", "e.yaml", "--json", "same.json")
        if packed:
            assert_a_line(ended)
        else:
            assert ended.status == 0, (seed, ended)
            same = json.loads(Path("same.json").read_text())
            keys = ("method", "dataset", "seed", "settings", "state", "params_output")
            assert [[run.get(k) for k in keys] for run in same] == [[run.get(k) for k in keys] for run in clean], seed

        text = edited(EXPERIMENT, draw)
        Path("e.yaml").write_bytes(text)
        ended = machbench("plan", "e.yaml")
        assert ended.status == 0 or assert_a_line(ended) is None, (seed, text)


@pytest.mark.usefixtures("own")
def test_results_folders() -> None:
    """One damaged run does not change the rows of the others, and no verb ends otherwise than with a line."""
    Path("e.yaml").write_text("dataset: own\nseeds: [0, 1]\ntrain: {top_k: 6}\nmethods: {label_frequency: {}}\n")
    subprocess.run([sys.executable, "-m", "bench", "run", "e.yaml"], check=True, capture_output=True, env=environment())
    for method, row in (("a", "0:3 1:2 2:1\n"), ("b", "3:3 4:2 5:1\n")):
        Path("scores.txt").write_text(row * 10)
        assert machbench("score", "e", "--file", "scores.txt", "--dataset", "own", "--method", method).status == 0
    right = load_results("results/e").set_index("run_id")
    shutil.copytree("results", "kept")
    for seed in seeds():
        draw = np.random.default_rng([4, seed])
        shutil.rmtree("results")
        shutil.copytree("kept", "results")
        files = sorted(path for path in Path("results/e/runs").glob("*/*") if path.is_file())
        files += [Path("results/e/ledger.jsonl"), Path("results/e/table.csv")]
        damaged = files[int(draw.integers(len(files)))]
        damaged.write_bytes(edited(damaged.read_bytes(), draw))
        in_a_run = damaged.parent.parent.name == "runs"
        for verb in (["status", "e"], ["table", "e"], ["score", "e"], ["diff", "e", "e"], ["table", "e"]):
            ended = machbench(*verb)
            what = (seed, str(damaged), verb, ended)
            assert "Traceback" not in ended.out + ended.err, what
            if ended.status == 2:
                assert_a_line(ended)
            assert ended.status == 0 or not in_a_run or verb[0] in ("score", "diff"), what
        if in_a_run:
            found = load_results("results/e").set_index("run_id")
            others = [run_id for run_id in right.index if run_id != damaged.parent.name]
            assert set(others) <= set(found.index), (seed, damaged)
            pd.testing.assert_series_equal(found.loc[others, "P@1"], right.loc[others, "P@1"])
