"""Random splits of one file: both forms, what is wrong with a file of them, and how a split becomes a dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from bench.common.errors import DataError, InputError
from bench.data import dataset_fingerprint, load_dataset
from bench.data.cli import app
from bench.data.download.fetch import install
from bench.data.formats import detect
from bench.data.formats.detect import read_matrices
from bench.data.formats.splits import divide, read_splits
from bench.data.formats.xmlrepo import Dialect, parse_reference

Write = Callable[[str, str], Path]
POINTS = "5 4 3\n0 0:1\n1 1:2 3:1\n 2:3\n0,2 3:4\n2 0:5\n"
LINES = "0 1 2\n4 0\n"  # two splits of five points


def split_files(write: Write, splits: str = LINES) -> dict[str, Path]:
    return {"all": write("all.txt", POINTS), "splits": write("splits.txt", splits)}


def test_a_line_or_a_column_per_split(write: Write) -> None:
    lines = read_splits(write("lines.txt", "3 1 0\n\n0 1 2\n"), 5)
    columns = read_splits(write("columns.txt.gz", "4 1\n2 2\n1 3\n"), 5)
    assert [rows.tolist() for rows in lines] == [[0, 1, 3], [0, 1, 2]]
    assert [rows.tolist() for rows in columns] == [rows.tolist() for rows in lines]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 1 5\n", "line 1: found point 5; expected points from 0 to 4, each once"),
        ("0 1 2\n\n1 3 1\n", "line 3: found point 1 twice in one split"),
        ("0 1 x\n", "line 1: found 'x'"),
        ("0 1 -1\n", "line 1: found '-1'"),
        (f"0 1 {10**30}\n", "line 1: found point 1000"),
        ("4 0 1 2 3\n", "line 1: found all 5 points in train; expected some left for test"),
        ("", "line 1: found an empty file"),
        (" \n\n", "line 1: found an empty file"),
        # columns count from 1, so 0 is out of range and n_points is not
        ("1 2\n2 5\n0 3\n", "line 3: found point 0; expected points from 1 to 5"),
        ("1\n2\n6\n", "line 3: found point 6; expected points from 1 to 5"),
        ("1 2\n2 3\n3\n", "line 3: found 1 numbers; expected 2, a column per split"),
        ("1 2\n2 3\n1 4\n", "line 3: found point 1 twice in one split"),
    ],
)
def test_a_bad_file_of_splits_is_an_error_with_its_line(write: Write, text: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_splits(write("splits.txt", text), 5)
    assert words in str(caught.value)
    assert "splits.txt" in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), max_size=9), st.integers(0, 2**32 - 1))
def test_dividing_a_block_is_taking_rows(train: list[bool], seed: int) -> None:
    rng = np.random.default_rng(seed)
    text = "".join(
        f"{','.join(map(str, rng.choice(5, rng.integers(0, 3), replace=False)))} "
        f"{' '.join(f'{f}:{rng.integers(1, 9)}' for f in rng.choice(6, rng.integers(0, 4), replace=False))}\n"
        for _ in train
    )
    block = parse_reference(text.encode(), Dialect(6, 5))
    mask = np.array(train, dtype=bool)
    for (name, part), chosen in zip(divide(block, mask), (mask, ~mask), strict=True):  # type: ignore[arg-type]
        lines = [line for line, kept in zip(text.splitlines(True), chosen, strict=True) if kept]
        plain = parse_reference("".join(lines).encode(), Dialect(6, 5))
        for field in ("x_lengths", "x_indices", "x_values", "y_lengths", "y_indices"):
            assert getattr(part, field).tolist() == getattr(plain, field).tolist(), (name, field)


def test_each_split_is_a_dataset_of_its_own(write: Write) -> None:
    install("mine", split_files(write), lambda _: None)
    X, Y = read_matrices(write("whole.txt", POINTS))
    prints = set()
    for split, (train, test) in enumerate((([0, 1, 2], [3, 4]), ([0, 4], [1, 2, 3]))):
        data = load_dataset("mine", split=split, validation_points=1)
        for part, rows in ((data.train, train), (data.test, test)):
            assert part.X.toarray().tolist() == X[rows].toarray().tolist()
            assert part.Y.toarray().tolist() == Y[rows].toarray().tolist()
        assert f"split {split}," in data.notes[0]
        assert dataset_fingerprint("mine", split=split) == data.fingerprint
        prints.add(data.fingerprint)
    assert len(prints) == 2
    # the first split is what the name alone stands for: the same cache, not a second one
    assert load_dataset("mine", validation_points=0).folder == load_dataset("mine", split=0).folder


def test_a_split_equals_the_same_points_in_two_files(write: Write) -> None:
    install("one", split_files(write), lambda _: None)
    train, test = "2 4 3\n0 0:1\n2 0:5\n", "3 4 3\n1 1:2 3:1\n 2:3\n0,2 3:4\n"
    install("two", {"train": write("train.txt", train), "test": write("test.txt", test)}, lambda _: None)
    assert load_dataset("one", split=1).fingerprint == load_dataset("two").fingerprint


def test_matrix_files_are_split_as_well(write: Write) -> None:
    write("mine_Y.txt", "3 2\n0:1\n1:1\n0:1 1:1\n")
    files = {"all": write("mine_X.txt", "3 4\n0:1\n1:1\n2:1\n"), "splits": write("splits.txt", "0 2\n")}
    install("pair", files, lambda _: None)
    data = load_dataset("pair")
    assert data.train.Y.toarray().tolist() == [[1, 0], [1, 1]]
    # the labels in the second file are part of what the data are
    before = data.folder
    write("mine_Y.txt", "3 2\n0:1\n1:1\n1:1\n")
    assert load_dataset("pair").folder != before


def test_a_file_of_several_blocks(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect.xmlrepo, "line_blocks", lambda path: (line + b"\n" for line in lines(path)))

    def lines(path: Path) -> list[bytes]:
        return path.read_bytes().splitlines()

    install("mine", split_files(write), lambda _: None)
    assert load_dataset("mine", split=1).train.X.toarray().tolist() == [[1, 0, 0, 0], [5, 0, 0, 0]]


def test_import_command_takes_splits(write: Write) -> None:
    files = split_files(write)
    done = CliRunner().invoke(app, ["import", "mine", "--all", str(files["all"]), "--splits", str(files["splits"])])
    assert done.exit_code == 0, done.output
    assert load_dataset("mine", split=1).stats["n_test"] == 3
    assert "split 0, counted from 0" in CliRunner().invoke(app, ["show", "mine"]).output


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["all"], "file 'all' by itself"),
        (["splits"], "file 'splits' by itself"),
        (["all", "splits", "train"], "not both"),
        (["all", "splits", "test_filter"], "filter files"),
        (["train"], "--all F --splits F"),
    ],
)
def test_files_that_do_not_go_together(write: Write, cache: Path, kinds: list[str], words: str) -> None:
    files = split_files(write) | {"train": write("train.txt", POINTS), "test_filter": write("filter.txt", "0 0\n")}
    with pytest.raises(InputError, match=words):
        install("mine", {kind: files[kind] for kind in kinds}, lambda _: None)
    assert not (cache / "cards" / "mine.yaml").exists()


@pytest.mark.parametrize("split", [2, -1, True, "1", 0.5])
def test_no_such_split(write: Write, split: object) -> None:
    install("mine", split_files(write), lambda _: None)
    with pytest.raises(InputError, match="split: found"):
        load_dataset("mine", split=split)
    assert dataset_fingerprint("mine") is not None


def test_a_train_and_a_test_file_have_no_splits(write: Write) -> None:
    install("mine", {"train": write("a.txt", POINTS), "test": write("b.txt", POINTS)}, lambda _: None)
    with pytest.raises(InputError, match="dataset mine: split: found 0; expected none"):
        load_dataset("mine", split=0)


def test_files_without_a_header_cannot_be_split(write: Write) -> None:
    files = {"all": write("all.svm", "0 1:1\n1 1:2\n"), "splits": write("splits.txt", "0\n")}
    with pytest.raises(DataError, match="svmlight text, which has no header"):
        install("mine", files, lambda _: None)


@pytest.mark.parametrize(("name", "folder"), [("delicious-983", "delicious-983"), ("bibtex", "bibtex-159")])
def test_real_splits_match_their_card(shared: Path, name: str, folder: str) -> None:
    files = {"all": shared / folder / "all.txt.gz", "splits": shared / folder / "splits.txt.gz"}
    install(name, files, lambda _: None)  # compares the first split with the card
    first, last = load_dataset(name, split=0), load_dataset(name, split=9)
    for key in ("n_train", "n_test", "n_features", "n_labels"):
        assert first.stats[key] == last.stats[key]
    assert first.fingerprint != last.fingerprint
    with pytest.raises(InputError, match="expected 0 to 9"):
        load_dataset(name, split=10)
