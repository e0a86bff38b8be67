from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.common.errors import DataError, InputError
from bench.data.formats.csr_blocks import Block
from bench.data.formats.detect import open_data, read_header

Write = Callable[[str, str], Path]
GOOD = "4 3 5\n0,4 0:0.5 2:1e-3\n 1:2\n3\n\n"


def _read(path: Path) -> Block:
    blocks = [block.canonical() for block in open_data(path, format="xmlrepo").blocks()]
    fields = ("x_lengths", "x_indices", "x_values", "y_lengths", "y_indices")
    return Block(*(np.concatenate([getattr(block, field) for block in blocks]) for field in fields))


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_reads_points_without_labels_or_features(write: Write, name: str) -> None:
    path = write(name, GOOD)
    assert read_header(path) == (4, 3, 5)
    block = _read(path)
    assert block.x_lengths.tolist() == [2, 1, 0, 0]
    assert block.y_lengths.tolist() == [2, 0, 1, 0]
    assert block.x_indices.tolist() == [0, 2, 1]
    assert block.y_indices.tolist() == [0, 4, 3]
    np.testing.assert_array_equal(block.x_values, np.array([0.5, 1e-3, 2], dtype=np.float32))


def test_duplicates_and_order(write: Write) -> None:
    block = _read(write("a.txt", "2 9 9\n7,2,7 5:1 1:2 5:0.25\n8,0\n"))
    assert block.y_indices.tolist() == [2, 7, 0, 8]
    assert block.x_indices.tolist() == [1, 5]
    assert block.x_values.tolist() == [2, 1.25]


def test_canonical_leaves_the_callers_arrays_alone() -> None:
    block = Block(np.array([3]), np.array([2, 1, 2]), np.ones(3, np.float32), np.array([2]), np.array([5, 5]))
    block.canonical()
    assert block.x_indices.tolist() == [2, 1, 2]
    assert block.y_indices.tolist() == [5, 5]


def test_windows_line_ends(write: Write) -> None:
    assert _read(write("a.txt", "1 2 2\r\n1 0:1\r\n")).y_indices.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "empty"),
        ("1 2\n0 0:1\n", 1, "trn_X_Xf"),
        ("0 0:1 1:2\n", 1, "svmlight"),
        ("1 2 x\n0 0:1\n", 1, "1 2 x"),
        ("1 -2 2\n0 0:1\n", 1, "1 -2 2"),
        ("2 3 5\n0 0:1\n5 0:1\n", 3, "label 5"),
        ("2 3 5\n0 0:1\n-1 0:1\n", 3, "label '-1'"),
        ("2 3 5\n0 3:1\n0 0:1\n", 2, "feature 3"),
        ("2 3 5\n0 0:1\n0 -1:1\n", 3, "feature '-1'"),
        ("1 3 5\n0 0:abc\n", 2, "'abc'"),
        ("1 3 5\n0 0:nan\n", 2, "'nan'"),
        ("1 3 5\n0 0:inf\n", 2, "'inf'"),
        ("1 3 5\n0 0:1e39\n", 2, "'1e39'"),
        ("1 3 5\n0 0:1_0\n", 2, "'1_0'"),
        ("1 3 5\n0 0:\n", 2, "value ''"),
        ("1 3 5\n0 7\n", 2, "'7'"),
        ("1 3 5\n0,,1 0:1\n", 2, "label ''"),
        ("1 3 5\n1.0 0:1\n", 2, "label '1.0'"),
        ("3 3 5\n0 0:1\n0 0:1\n", 3, "end after 2 points"),
        ("1 3 5\n0 0:1\n0 0:1\n", 3, "point 2"),
        ("1 3 5\n0 0:1\0\n", 2, "not text"),
    ],
)
@pytest.mark.parametrize("name", ["bad.txt", "bad.txt.gz"])
def test_malformed_names_file_and_line(write: Write, name: str, text: str, line: int, words: str) -> None:
    path = write(name, text)
    with pytest.raises(DataError) as caught:
        _read(path)
    assert caught.value.line == line
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_truncated_gzip_and_junk(tmp_path: Path) -> None:
    whole = gzip.compress(("1000 3 5\n" + "0 0:1 1:0.123\n" * 1000).encode())
    for cut in (12, len(whole) // 2, len(whole) - 4):
        path = tmp_path / f"cut{cut}.gz"
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="gzip"):
            _read(path)
    junk = tmp_path / "junk"
    junk.write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match="not text"):
        _read(junk)
    with pytest.raises(InputError, match="does not exist"):
        _read(tmp_path / "none")
