"""The compiled parser against the reference, scikit-learn's reader, and files with something wrong in
them."""

from __future__ import annotations

import bz2
import gzip
import random
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from bench.common.errors import DataError, InputError
from bench.data import load_dataset
from bench.data.formats.csr_blocks import Block
from bench.data.formats.detect import detect, open_data, read_filter, read_matrices
from bench.data.formats.export import write_xmlrepo
from bench.data.formats.xmlrepo import Dialect, _Fault, _parse_fast, parse_reference, read_blocks

Write = Callable[[str, str], Path]
FIELDS = ("x_lengths", "x_indices", "x_values", "y_lengths", "y_indices")
WIDE = Dialect(200, 100)


def _same(fast: Block | _Fault, plain: Block | _Fault) -> None:
    if isinstance(plain, _Fault):
        assert isinstance(fast, _Fault)
        assert (fast.line, fast.bad.found) == (plain.line, plain.bad.found)
        return
    assert isinstance(fast, Block)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(fast, field), getattr(plain, field))
    if fast.rising:  # the claim that spares sorting must be true
        canonical = plain.canonical()
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(fast, field), getattr(canonical, field))


labels = st.lists(st.integers(0, 99), max_size=4)
numbers = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
    st.floats(-1e30, 1e30).map(repr),
    st.decimals(-1000, 1000, allow_nan=False, places=4).map(str),
    st.sampled_from(["1", "0", "-0", "1.", ".5", "1e5", "1E-7", "+3", "00.10", "1e-400", "9007199254740993", "0.1e+2"]),
)
features = st.lists(st.tuples(st.integers(0, 199), numbers), max_size=6)
lines = st.tuples(labels, features).map(
    lambda point: f"{','.join(map(str, point[0]))} {' '.join(f'{c}:{v}' for c, v in point[1])}"
)


@given(st.lists(lines, max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_compiled_equals_reference(points: list[str], end: str) -> None:
    text = "".join(point + end for point in points).encode()
    _same(_parse_fast(text, WIDE), parse_reference(text, WIDE))


@settings(max_examples=400)
@given(st.text(alphabet="0123456789,: .-e\n\rx|+", max_size=60))
def test_compiled_equals_reference_on_anything(text: str) -> None:
    raw = text.encode() + b"\n"
    _same(_parse_fast(raw, WIDE), parse_reference(raw, WIDE))


@given(st.lists(lines, min_size=1, max_size=40), st.integers(1, 3))
def test_blocks_and_threads_do_not_matter(points: list[str], threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt.gz"
        path.write_bytes(gzip.compress(("header\n" + "\n".join(points)).encode()))
        got = [b.canonical() for b in read_blocks(path, WIDE, 1, len(points), threads, fast=True)]
    whole = parse_reference(("\n".join(points) + "\n").encode(), WIDE)
    assert isinstance(whole, Block)
    for field in FIELDS:
        np.testing.assert_array_equal(
            np.concatenate([getattr(block, field) for block in got]), getattr(whole.canonical(), field)
        )


def test_large_files_keep_line_numbers(tmp_path: Path) -> None:
    """Faults beyond the first block, on both paths, name the right line."""
    rows = ["1,5 3:0.25 17:1e-3 150:2"] * 200_000
    for bad_at, text in ((199_999, "1 3:x"), (123_456, "100 3:1")):
        broken = rows.copy()
        broken[bad_at] = text
        path = tmp_path / "big.txt"
        path.write_text("200000 200 100\n" + "\n".join(broken) + "\n")
        for fast in (True, False):
            reading = open_data(path)
            reading.fast = fast
            with pytest.raises(DataError) as caught:
                for _ in reading.blocks():
                    pass
            assert caught.value.line == bad_at + 2


@pytest.mark.parametrize("pack", ["plain", "gz", "two gz members", "bz2", "zip"])
def test_compressions(tmp_path: Path, pack: str) -> None:
    text = b"2 3 5\n0,4 0:0.5\n1 2:1\n"
    path = tmp_path / "points"
    if pack == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inner.txt", text)
    else:
        packed = {
            "plain": text,
            "gz": gzip.compress(text),
            "two gz members": gzip.compress(text[:9]) + gzip.compress(text[9:]),
            "bz2": bz2.compress(text),
        }
        path.write_bytes(packed[pack])
    X, Y = read_matrices(path)
    assert X.toarray().tolist() == [[0.5, 0, 0], [0, 0, 1]]
    assert Y.toarray().tolist() == [[1, 0, 0, 0, 1], [0, 1, 0, 0, 0]]
    if pack not in ("plain", "zip"):
        path.write_bytes(path.read_bytes()[:-6])
        with pytest.raises(DataError, match=r"cut short|broken"):
            read_matrices(path)


X = sparse.csr_matrix(np.array([[0.5, 0, 0], [0, 0, 0], [0, 1, 2]], dtype=np.float32))
Y = sparse.csr_matrix(np.array([[1, 0], [0, 0], [1, 1]], dtype=np.float32))


def _check(path: Path) -> None:
    got_X, got_Y = read_matrices(path)
    np.testing.assert_array_equal(got_X.toarray(), X.toarray())
    np.testing.assert_array_equal(got_Y.toarray(), Y.toarray())


def test_matrix_pair(write: Write) -> None:
    path = write("trn_X_Xf.txt", "3 3\n0:0.5\n\n1:1 2:2\n")
    with pytest.raises(DataError, match=r"trn_X_Y\.txt"):
        read_matrices(path)
    other = write("trn_X_Y.txt", "3 2\n0:1\n1:0\n0:1 1:1.0\n")
    assert detect(path) == "matrix"
    _check(path)
    other.write_text("2 2\n0:1\n\n")
    with pytest.raises(DataError, match="found 2 rows"):
        read_matrices(path)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_npz_pair(tmp_path: Path, kind: str) -> None:
    sparse.save_npz(tmp_path / "X.trn.npz", X.asformat(kind))
    with pytest.raises(DataError, match=r"Y\.trn\.npz"):
        read_matrices(tmp_path / "X.trn.npz")
    sparse.save_npz(tmp_path / "Y.trn.npz", Y.asformat(kind))
    _check(tmp_path / "X.trn.npz")


def test_npz_that_are_wrong(tmp_path: Path) -> None:
    sparse.save_npz(tmp_path / "Y.trn.npz", Y)
    path = tmp_path / "X.trn.npz"
    bad = {"indptr": X.indptr, "indices": X.indices + 9, "data": X.data, "shape": X.shape, "format": b"csr"}
    nan = {**bad, "indices": X.indices, "data": X.data * np.nan}
    for arrays, words in ((bad, "array indices: found id 11"), (nan, "not finite"), ({"a": X.data}, "sparse matrix")):
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=words):
            read_matrices(path)


def test_svmlight(write: Write) -> None:
    path = write("a.svm", "0 0:0.5\n # nothing but a remark\n1,0 2:2 1:1 # words\n")
    assert detect(path) == "svmlight"
    got_X, got_Y = read_matrices(path)
    np.testing.assert_array_equal(got_X.toarray(), X.toarray()[[0, 2]])
    np.testing.assert_array_equal(got_Y.toarray(), Y.toarray()[[0, 2]])


def test_vw_offsets(write: Write) -> None:
    text = "1 | 11:0.5\n2 | 12:1 13:2\n"
    path = write("a.vw", text)
    assert detect(path) == "vw"
    for fast in (True, False):
        reading = open_data(path, label_offset=1, feature_offset=11)
        reading.fast = fast
        (block,) = reading.blocks()
        assert block.x_indices.tolist() == [0, 1, 2]
        assert block.y_indices.tolist() == [0, 1]
        assert (reading.n_features, reading.n_labels) == (3, 2)
        reading = open_data(path, label_offset=2)
        reading.fast = fast
        with pytest.raises(DataError, match="label 1; expected a label from 2"):
            list(reading.blocks())
    for bad in ("1 | word:1\n", "1 0.5 | 3:1\n", "1 |a 3:1 |b 4:1\n"):
        with pytest.raises(DataError, match="line 1"):
            read_matrices(write("bad.vw", bad))
    assert read_matrices(write("implicit.vw", "1 |ns 3 4:2\n"))[0].toarray().tolist() == [[0, 0, 0, 1, 2]]


def test_unknown_content(write: Write, tmp_path: Path) -> None:
    for text, words in (
        ("<!DOCTYPE html>\n", "HTML"),
        ("%%MatrixMarket matrix\n", "MatrixMarket"),
        ("a,b\n1,2\n", "found 'a,b'"),
        ("", "empty"),
    ):
        with pytest.raises(DataError, match=words):
            open_data(write("what", text))
    (tmp_path / "junk").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(DataError, match="not text"):
        open_data(tmp_path / "junk")
    with pytest.raises(InputError, match="unknown format"):
        open_data(write("a", "1 1 1\n"), format="xml")


def test_filter_files(write: Write, tmp_path: Path) -> None:
    path = write("filter.txt", "0 1\n2 0\n")
    assert read_filter(path, 3, 2).tolist() == [[0, 1], [2, 0]]
    with pytest.raises(DataError, match="line 2"):
        read_filter(path, 2, 2)
    write_xmlrepo(tmp_path / "a.txt", X, Y)
    card = write(
        "c.yaml", f"title: t\nsource: files\nparameters: {{train: {tmp_path}/a.txt, test: {tmp_path}/a.txt}}\n"
    )
    pairs = [[0, 1], [0, 0], [1, 0]]
    data = load_dataset(str(card), test_filter=str(path), validation_points=2)
    assert data.test_filter is not None
    assert data.test_filter.toarray().tolist() == pairs
    assert data.left_out("test") is data.test_filter
    assert data.left_out("validation") is None
    assert "test points have a filter, train points have none: nothing is left out for validation points" in data.notes
    data = load_dataset(str(card), train_filter=str(path), validation_points=2)
    assert data.test_filter is None
    assert data.train_filter is not None
    assert data.train_filter.toarray().tolist() == pairs
    of_validation = data.left_out("validation")
    assert of_validation is not None
    assert of_validation.toarray().tolist() == [pairs[row] for row in data.validation_rows]
    assert "train points have a filter, test points have none: it is for validation points alone" in data.notes
    data = load_dataset(str(card), train_filter=str(path), test_filter=str(path))
    assert data.train_filter is not None
    assert data.test_filter is not None
    assert not any("filter" in note for note in data.notes)


@given(st.data())
def test_what_is_written_reads_back(data: st.DataObject) -> None:
    values = st.floats(width=32, allow_nan=False, allow_infinity=False).filter(bool)
    rows = data.draw(st.lists(st.lists(st.one_of(st.just(0.0), values), min_size=3, max_size=3), min_size=1))
    matrix = sparse.csr_matrix(np.array(rows, dtype=np.float32))
    ones = sparse.csr_matrix((matrix.toarray() > 0).astype(np.float32))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        write_xmlrepo(path, matrix, ones)
        got, labels_back = read_matrices(path)
    np.testing.assert_array_equal(got.toarray(), matrix.toarray())
    np.testing.assert_array_equal(labels_back.toarray(), ones.toarray())


GOOD = "6 20 9\n0,4 0:0.5 2:1e-3 19:3\n 1:2\n3\n8,1 4:-1.5 7:2\n2 11:1 12:1 13:1\n5,6,7 3:0.125\n"


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), packed=st.booleans(), fast=st.booleans(), edits=st.integers(1, 3))
def test_fuzz_the_same_data_or_a_clear_error(seed: int, packed: bool, fast: bool, edits: int) -> None:
    """Mutated files give some sound matrix of the announced size or a DataError with file and line; no
    cache stays."""
    draw = random.Random(seed)
    raw = bytearray(gzip.compress(GOOD.encode()) if packed else GOOD.encode())
    for _ in range(edits):
        at = draw.randrange(len(raw))
        action = draw.choice(["change", "delete", "insert", "cut", "copy"])
        if action == "change":
            raw[at] = draw.choice(b"0123456789,: .-\nen\0\xff")
        elif action == "delete":
            del raw[at]
        elif action == "insert":
            raw.insert(at, draw.choice(b"0123456789,: .-\nen\0\xff"))
        elif action == "cut":
            del raw[max(at, 1) :]
        else:
            raw[at:at] = raw[draw.randrange(len(raw)) :][:7]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        path.write_bytes(raw)
        try:
            reading = open_data(path)
            reading.fast = fast
            blocks = list(reading.blocks())
        except DataError as error:
            located = error.line is not None and str(path) in str(error)
            if not located:
                pytest.fail(f"an error without file and line: {error}")
            return
        if reading.n_points is not None:  # nothing lost: as many points as announced
            assert sum(len(block.x_lengths) for block in blocks) == reading.n_points
        for block in blocks:
            assert np.isfinite(block.x_values).all()
            assert block.x_indices.max(initial=0) < max(reading.n_features, 1)
            assert block.y_indices.max(initial=0) < max(reading.n_labels, 1)
            assert block.x_lengths.sum() == len(block.x_indices) == len(block.x_values)
            assert block.y_lengths.sum() == len(block.y_indices)
        if packed and bytes(raw) != gzip.compress(GOOD.encode()):
            text = gzip.decompress(bytes(raw))  # what gzip accepts is what was read
            assert text.count(b"\n") >= sum(len(block.x_lengths) for block in blocks)
