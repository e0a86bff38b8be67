"""Every real file kept beside the checkout: statistics as its list states them, X and Y as scikit-learn reads them."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest

from bench.data import load_dataset
from bench.data.download.fetch import install
from bench.data.formats.detect import read_matrices
from bench.data.passport import row_hashes

FOLDERS = (
    "icd10cm-terms",
    "moby-thesaurus",
    "wordnet-relations",
    "human-gene-pubmed",
    "finna-yso-en",
    "delicious-983",
    "bibtex-159",
)
LARGE = ("human-gene-pubmed", "finna-yso-en")
FIRST = 50_000  # points that are compared of a large file; scikit-learn's reader is slow
SPLITS = ("train", "test")


def _listed(shared: Path) -> dict[str, tuple[int, int, int, int, str]]:
    """Train points, test points, features, labels and the printed labels per point of each folder in the list."""
    found = {}
    for line in (shared / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip(" `*") for cell in line.split("|")]
        if len(cells) > 7 and (shared / cells[1]).is_dir():
            counts = [int(number.replace(",", "")) for number in (*cells[3].split("/"), cells[4], cells[5])]
            found[cells[1]] = (counts[0], counts[1], counts[2], counts[3], cells[6])
    return found


def test_no_folder_is_left_out(shared: Path) -> None:
    folders = {path.name for path in shared.iterdir() if path.is_dir()}
    assert folders == set(FOLDERS) == set(_listed(shared))


@pytest.mark.parametrize("name", FOLDERS)
def test_equals_sklearn_and_the_list(shared: Path, tmp_path: Path, name: str) -> None:
    load_svmlight_file = pytest.importorskip("sklearn.datasets").load_svmlight_file
    n_train, n_test, n_features, n_labels, printed = _listed(shared)[name]
    for split, n_points in zip(SPLITS, (n_train, n_test), strict=True):
        X, Y = read_matrices(shared / name / f"{split}.txt.gz")
        assert X.shape == (n_points, n_features)
        assert Y.shape == (n_points, n_labels)
        if split == "train":
            digits = len(printed.partition(".")[2])
            assert f"{Y.nnz / n_points:.{digits}f}" == printed
        # scikit-learn knows no header and drops empty lines
        with gzip.open(shared / name / f"{split}.txt.gz") as file:
            next(file)
            lines = list(itertools.islice(file, FIRST if name in LARGE else None))
        kept = np.flatnonzero([bool(line.strip()) for line in lines])
        (tmp_path / "part").write_bytes(b"".join(lines))
        theirs, their_labels = load_svmlight_file(
            str(tmp_path / "part"), n_features=n_features, dtype=np.float32, multilabel=True, zero_based=True
        )
        ours, our_labels = X[kept], Y[kept]
        np.testing.assert_array_equal(ours.indptr, theirs.indptr)
        np.testing.assert_array_equal(ours.indices, theirs.indices)
        np.testing.assert_array_equal(ours.data, theirs.data)
        np.testing.assert_array_equal(np.diff(our_labels.indptr), [len(labels) for labels in their_labels])
        np.testing.assert_array_equal(our_labels.indices, list(itertools.chain.from_iterable(their_labels)))
        assert (our_labels.data == 1).all()


@pytest.mark.parametrize("name", ["bibtex-159", "delicious-983"])
def test_all_points_are_those_of_train_and_test(shared: Path, name: str) -> None:
    """The file of all points holds train and test, and each line of the splits a train part of the right size."""
    n_train, n_test, *_ = _listed(shared)[name]
    parts = [read_matrices(shared / name / f"{part}.txt.gz") for part in ("all", *SPLITS)]
    whole, train, test = (np.stack([row_hashes(matrix) for matrix in pair], axis=1) for pair in parts)
    together = np.concatenate([train, test])
    np.testing.assert_array_equal(whole[np.lexsort(whole.T)], together[np.lexsort(together.T)])
    splits = gzip.decompress((shared / name / "splits.txt.gz").read_bytes()).splitlines()
    assert len(splits) == 10
    for line in splits:
        rows = np.array(line.split(), dtype=np.int64)
        assert len(rows) == n_train
        assert (np.diff(rows) > 0).all()
        assert rows[-1] < n_train + n_test


@pytest.mark.parametrize("name", FOLDERS)
def test_imports_with_label_names(shared: Path, name: str) -> None:
    """What `data import` makes of the files as they are: names of labels too, packed like the points."""
    folder = shared / name
    files = {split: folder / f"{split}.txt.gz" for split in SPLITS} | {"label_names": folder / "labels.txt.gz"}
    install("mine", files, lambda _: None)
    data = load_dataset("mine")
    n_train, n_test, n_features, n_labels, _ = _listed(shared)[name]
    assert [data.stats[key] for key in ("n_train", "n_test", "n_features", "n_labels")] == [
        *(n_train, n_test),
        *(n_features, n_labels),
    ]
    assert data.label_names is not None
    assert len(data.label_names.read_text(encoding="utf-8").splitlines()) == n_labels
