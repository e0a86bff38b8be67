"""What all readers do alike: byte-order marks, remarks, blank lines, line ends, compression, ids that are too large."""

from __future__ import annotations

import bz2
import gzip
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from bench.common.errors import DataError, InputError
from bench.data import load_dataset
from bench.data.download.fetch import install
from bench.data.formats import streams, widths
from bench.data.formats.detect import Reading, detect, open_data, read_filter, read_matrices
from bench.data.formats.scores import read_scores
from bench.data.formats.splits import read_splits

Write = Callable[[str, str], Path]
SVM = "0,1 0:1 1:0.5\n2 3:1\n4 5:2\n3 2:0.25 4:1\n"
XML = "4 6 5\n" + SVM
VW = "0 | 0:1 1:0.5\n2 | 3:1\n4 | 5:2\n3 | 2:0.25 4:1\n"
MARK = "\ufeff"


def _dense(path: Path) -> tuple[list[list[float]], list[list[float]]]:
    X, Y = read_matrices(path)
    return X.toarray().tolist(), Y.toarray().tolist()


def _read_all(path: Path, kind: str) -> object:
    """What a reader finds in a file, in a form that can be compared."""
    if kind in ("xml", "svm", "vw"):
        return _dense(path)
    if kind == "filter":
        return read_filter(path, 4, 5).tolist()
    if kind == "splits":
        return [rows.tolist() for rows in read_splits(path, 9)]
    if kind == "names":
        return streams.text_lines(path)
    return [array.tolist() for array in read_scores(path, 2, 5)]


TEXTS = {
    "xml": XML,
    "svm": SVM,
    "vw": VW,
    "filter": "0 1\n2 4\n",
    "splits": "0 1 2\n4 0\n",
    "names": "a\nb\n",
    "scores": "2 5\n0:0.5 1:0.25\n4:2\n",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_marks_line_ends_and_compression_change_nothing(tmp_path: Path, kind: str) -> None:
    text, path = TEXTS[kind], tmp_path / "file"
    path.write_text(text)
    plain = _read_all(path, kind)
    marked = (MARK + text).encode()
    for raw in (
        marked,
        text.replace("\n", "\r\n").encode(),
        marked.replace(b"\n", b"\r\n"),
        gzip.compress(marked),
        gzip.compress(marked[:2]) + gzip.compress(marked[2:]),  # the mark comes in two pieces
        bz2.compress(marked),
        text.rstrip("\n").encode(),
    ):
        path.write_bytes(raw)
        assert _read_all(path, kind) == plain
    for encoding, word in (("utf-16", "UTF-16"), ("utf-32", "UTF-32")):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(DataError, match=rf"file, line 1: found {word} text; expected UTF-8"):
            _read_all(path, kind)


@pytest.mark.parametrize("kind", ["svm", "vw", "filter", "splits"])
def test_blank_lines_and_remarks_are_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    path.write_text(TEXTS[kind])
    plain = _read_all(path, kind)
    first, rest = TEXTS[kind].split("\n", 1)
    for text in (
        f"# für\n\n{first}\n{rest}",
        f"{first}\n#\n \t\n{rest}\n\n  # the end: 1:2\n",
        f"\n\r\n{first}\r\n\r\n{rest}#",
        "#\n" * 50_000 + f"{first}\n{rest}",  # longer than what is looked at first
    ):
        path.write_text(text)
        assert _read_all(path, kind) == plain


def test_remarks_of_score_files_and_within_svmlight(write: Write) -> None:
    scores = TEXTS["scores"]
    plain = _read_all(write("plain", scores), "scores")
    assert _read_all(write("remark", f"# from elsewhere\n{scores}# end\n"), "scores") == plain
    # a blank line is a point without predictions
    assert read_scores(write("blank", "0:1\n\n"), 2, 5)[1].tolist() == [[0], [-1]]
    assert _dense(write("a.svm", SVM.replace("3:1\n", "3:1 # fünf: 5:7\n"))) == _dense(write("b.svm", SVM))
    # where the header counts the points, a blank line is one, and there are no remarks
    assert _dense(write("a.txt", XML.replace("2 3:1", "")))[1][1] == [0.0] * 5
    with pytest.raises(DataError, match="line 3: found label '#'"):
        read_matrices(write("b.txt", XML.replace("2 3:1", "# 3:1")))


pieces = st.sampled_from(
    ["", " ", "\t", "#", "# 1:2", " # é", "7 1:2 # 3", "1,2 3:4", " 5:1", "3", "0 0:1e400", "x", "qid:1 2:3"]
)
vw_pieces = st.sampled_from(
    [
        "",
        " ",
        "# |",
        " #",
        "1 | 2:3",
        "1 |ns 2:3",
        "1 |2:3 4:5",
        "1 | 2 3:4",
        "| 1:2",
        "|",
        "3 |",
        "1 | #a:1",
        "1 | 2:3|",
    ]
)


def _parsed(path: Path, format: str, fast: bool, threads: int) -> object:
    reading = open_data(path, format=format)
    reading.fast, reading.threads = fast, threads
    try:
        blocks = list(reading.blocks())
    except DataError as error:
        return str(error)
    columns = ("x_lengths", "x_indices", "x_values", "y_lengths", "y_indices")
    return [
        np.concatenate([getattr(block, column) for block in blocks]).tolist() if blocks else [] for column in columns
    ]


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(["svmlight", "vw"]), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_compiled_and_plain_agree_on_text_without_a_header(
    data: st.DataObject, format: str, end: str, mark: bool
) -> None:
    lines = data.draw(st.lists(pieces if format == "svmlight" else vw_pieces, max_size=12))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_text(MARK * mark + "".join(line + end for line in lines), newline="")
        plain = _parsed(path, format, fast=False, threads=1)
        assert _parsed(path, format, fast=True, threads=2) == plain
        path.write_text("\n".join(lines))  # nothing at the end of the last line
        assert _parsed(path, format, fast=True, threads=1) == _parsed(path, format, fast=False, threads=1)
    if isinstance(plain, list):  # points are the lines that hold something
        bare = [line.partition("#")[0] if format == "svmlight" else line for line in lines]
        assert len(plain[0]) == sum(bool(line.strip()) and not line.strip().startswith("#") for line in bare)


@pytest.mark.parametrize("fast", [True, False])
def test_lines_are_those_of_the_file(write: Write, monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    """Also where earlier blocks dropped lines, and for what is found only when all points are known."""
    monkeypatch.setattr("bench.data.formats.xmlrepo.line_blocks", lambda path: streams.line_blocks(path, 64))
    text = "# one\n\n" + "1 2:3\n# x\n\n" * 40
    for last, words in (
        ("1 2:x", "line 123: found value 'x'"),
        (f"{2**31 - 2} 1:1", "line 123: found label 2147483646, in"),
    ):
        reading = open_data(write("a.svm", f"{text}{last}\n"))
        reading.fast = fast
        with pytest.raises(DataError, match=words):
            list(reading.blocks())


def test_a_wrong_header_is_no_point(write: Write) -> None:
    for header in ("4,6,5", "4", "4.0 6.0 5.0", "4 6 5 1"):
        with pytest.raises(DataError, match=rf"line 1: found '{header}'; expected a header of three counts"):
            open_data(write("a", f"{header}\n{SVM}"))
    for text, words in (
        (f"# 4 6 5\n{SVM}", "line 1: found '# 4 6 5'; expected a header of three counts, .* without `#`"),
        (f"# data\n{XML}", "line 2: found '4 6 5'; expected counts in line 1"),
        (f"\n{XML}", "line 2: found '4 6 5'; expected counts in line 1"),
        ("# data\n\n", "line 1: found an empty file, or nothing but blank lines and remarks"),
        ("0,1\n2\n", "line 1: found '0,1'"),
    ):
        with pytest.raises(DataError, match=words):
            detect(write("a", text))
    # who says that it is svmlight text may begin with a point without features, but some point must have one
    assert len(next(open_data(write("a", f"3\n{SVM}"), format="svmlight").blocks()).x_lengths) == 5
    for format, text in (("svmlight", "0,1\n2\n"), ("vw", "0 |\n2 |\n")):
        with pytest.raises(DataError, match="found 2 points without any feature"):
            list(open_data(write("a", text), format=format).blocks())


def test_weights_in_vw_are_no_names(write: Write) -> None:
    for text, fast in (("1 |0:1 2:3\n", True), ("1 |0:1 2:3\n", False), ("1 |a:0.5 0:1\n", True)):
        reading = open_data(write("a.vw", text))
        reading.fast = fast
        with pytest.raises(DataError, match=r"a space after `\|`"):
            list(reading.blocks())


def test_ids_that_nothing_in_the_file_supports(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, words in (
        (f"# x\n{SVM}500000000 1:1\n", "line 6: found label 500000000, .* 6 labels; expected ids below 16777216"),
        (f"\n{SVM}1 2000000000:1\n", "line 6: found feature 2000000000, .* 7 features; expected ids below 268435456"),
    ):
        with pytest.raises(DataError, match=words):
            list(open_data(write("a.svm", text)).blocks())
    # hashed features, and ids that a card or the train file states
    hashed = open_data(write("a.svm", f"1 {2**24 - 1}:1\n"))
    assert len(list(hashed.blocks())) == 1
    assert hashed.n_features == 2**24
    stated = open_data(write("a.svm", "500000000 1:1\n"))
    stated.believed = (0, 500_000_001)
    assert len(list(stated.blocks())) == 1
    # with enough entries any id is right
    monkeypatch.setitem(widths.ALWAYS, "label", 10)
    assert read_matrices(write("a.svm", "499 1:1\n0 1:1\n1 1:1\n2 1:1\n3 1:1\n"))[1].shape == (5, 500)
    with pytest.raises(DataError, match=r"line 1: found label 500, .*; expected ids below 500,"):
        read_matrices(write("a.svm", "500 1:1\n0 1:1\n1 1:1\n2 1:1\n3 1:1\n"))
    shifted = open_data(write("a.svm", "501 1:1\n"), label_offset=1)
    with pytest.raises(DataError, match=r"found label 501, .*; expected ids below 101"):
        list(shifted.blocks())


@pytest.fixture
def little_memory() -> Iterator[None]:
    """4 GiB beside what the process has: enough to read small files, not for an array over 2e9 labels."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_memory")
def test_a_header_is_believed_with_a_warning(write: Write) -> None:
    said: list[str] = []
    train = write("train.txt", f"4 6 2000000000\n{SVM}")
    install("wide", {"train": train, "test": write("test.txt", XML)}, said.append)
    data = load_dataset("wide")
    note = "the header of train.txt states 2000000000 labels, but the file has 5 of them, ids up to 4"
    assert note in data.notes
    assert f"warning: {note}" in said
    assert data.stats["n_labels"] == 2_000_000_000
    assert data.stats["labels_without_train_point"] == 2_000_000_000 - 5
    assert data.passport["groups"]["unseen"]["labels"] == 2_000_000_000 - 5


@pytest.mark.usefixtures("little_memory")
def test_points_that_a_header_states_are_no_memory(write: Write) -> None:
    many = write("all.txt", f"900000000000 6 5\n{SVM}")
    with pytest.raises(DataError, match="line 5: found the end after 4 points; expected 900000000000"):
        read_matrices(many)
    with pytest.raises(DataError, match="line 1: found a header of 900000000000 points in a file of"):
        install("wide", {"all": many, "splits": write("splits.txt", "0 1\n2 3\n")}, lambda _: None)


def test_label_names(write: Write) -> None:
    files = {"train": write("a.txt", "1 1 3\n0 0:1\n"), "test": write("b.txt", "1 1 3\n0 0:1\n")}
    names = write("names.txt", f"{MARK}#tag\r\n\r\nC#\r\n\r\n")  # a name may begin with `#`, or be nothing
    install("named", {**files, "label_names": names}, lambda _: None)
    kept = load_dataset("named").label_names
    assert kept is not None
    assert kept.read_text() == "#tag\n\nC#\n"
    with pytest.raises(InputError, match="found 2 lines; expected 3 label names"):
        install("few", {**files, "label_names": write("few.txt", "a\nb\n")}, lambda _: None)


# --- matrices in .npz

X = sparse.csr_matrix(np.array([[1, 0.5, 0], [0, 0, 2]]))
Y = sparse.csr_matrix(np.array([[1, 1, 0, 0], [0, 0, 0, 1]]))
Parts = dict[str, object]


def _parts(matrix: sparse.csr_matrix, **changed: object) -> Parts:
    parts = {
        "indptr": matrix.indptr,
        "indices": matrix.indices,
        "data": matrix.data,
        "shape": matrix.shape,
        "format": "csr",
    }
    return {key: value for key, value in {**parts, **changed}.items() if value is not None}


def _pair(folder: Path, x: Parts, y: Parts) -> Path:
    np.savez(folder / "X.trn.npz", **x)  # type: ignore[arg-type]
    np.savez(folder / "Y.trn.npz", **y)  # type: ignore[arg-type]
    return folder / "X.trn.npz"


MALFORMED = [
    ({"indptr": np.array([0.0, 2, 3])}, "array indptr: found float64 of shape"),
    ({"indptr": np.array(3)}, "array indptr: found int64 of shape"),
    ({"indptr": np.array([0, 3, 2])}, "array indptr: found row pointers that do not fit"),
    ({"indptr": np.array([0, 3])}, "array indptr: found row pointers that do not fit"),
    ({"indptr": np.array([0, 2**63, 3], np.uint64)}, "array indptr: found row pointers that do not fit"),
    ({"indptr": np.array([0, 2, 9])}, "array indices: found 3 entries; expected 9"),
    ({"indices": np.array([0, 1, 2.5])}, "array indices: found float64"),
    ({"indices": np.array([[0, 1, 2]])}, "array indices: found int64 of shape"),
    ({"indices": np.array([0, 1, -1])}, "array indices: found id -1; expected ids from 0 to"),
    ({"indices": np.array([0, 1, 2**63], np.uint64)}, f"array indices: found id {2**63}"),
    ({"data": np.array(["1", "2", "3"])}, "array data: found <U1"),
    ({"data": np.ones((1, 3))}, "array data: found float64 of shape"),
    ({"data": np.ones(2)}, "array data: found 2 values; expected 3"),
    ({"data": np.array([1j, 1, 1])}, "array data: found complex128"),
    ({"shape": (2, 3, 1)}, "array shape: found"),
    ({"shape": (2.5, 3)}, "array shape: found"),
    ({"shape": 4}, "array shape: found"),
    ({"format": ["csr", "csr"]}, "array format: found"),
    ({"format": "bsr"}, "array format: found 'bsr'"),
]


@pytest.mark.parametrize(("changed", "words"), MALFORMED)
def test_malformed_matrices(tmp_path: Path, changed: Parts, words: str) -> None:
    path = _pair(tmp_path, _parts(X, **changed), _parts(Y))
    with pytest.raises(DataError, match=f"X.trn.npz, {words}"):
        read_matrices(path)
    with pytest.raises(DataError, match=f"X.trn.npz, {words}"):
        read_scores(path, 2, 3)


def test_values_and_ids_of_npz_have_the_limits_of_text(tmp_path: Path) -> None:
    for x, y, words in (
        (_parts(X, data=np.array([1, 1e300, 1])), _parts(Y), "X.trn.npz, array data: found value 1e.300"),
        (_parts(X, data=np.array([1, 3.5e38, 1])), _parts(Y), "array data: found value 3.5e.38"),
        (_parts(X), _parts(Y, data=np.array([1, np.nan, 1])), "Y.trn.npz, array data: found value nan"),
        (_parts(X, shape=(2, 2**32)), _parts(Y), f"array shape: found {2**32} columns; expected at most {2**31 - 1}"),
        (_parts(X), _parts(Y, shape=(2, 2**32)), f"array shape: found {2**32} columns"),
        (_parts(X, indices=np.array([0, 0, 2]), data=np.array([2e38, 2e38, 1])), _parts(Y), "of feature 0 that add up"),
    ):
        with pytest.raises(DataError, match=words):
            read_matrices(_pair(tmp_path, x, y))
    for kind in ("coo", "csc"):
        arrays = {"row": [0, 1], "col": [0, 1], "indptr": [0, 1, 2], "indices": [0, 1]}
        huge = {**arrays, "data": np.ones(2), "shape": (2**40, 2), "format": kind}
        with pytest.raises(DataError, match=f"array shape: found {2**40} rows; expected at most"):
            read_matrices(_pair(tmp_path, huge, {**huge, "shape": (2**40, 2)}))


@pytest.mark.parametrize("kind", ["csr", "coo"])
def test_entries_given_twice_add_up_in_double_precision(tmp_path: Path, kind: str) -> None:
    """In the file's own type 100 + 100 is -56, and four labels of 64 are none."""
    ids, rows = np.array([0, 0, 0, 0, 1, 2]), np.array([0, 0, 0, 0, 0, 1])
    where = {"indptr": [0, 5, 6], "indices": ids} if kind == "csr" else {"row": rows, "col": ids}

    def parts(values: list[float], dtype: type) -> Parts:
        return {**where, "data": np.array(values, dtype), "shape": (2, 3), "format": kind}

    path = _pair(tmp_path, parts([100, 100, 0, 0, 1, 1], np.int8), parts([64, 64, 64, 64, 0, 1], np.int8))
    assert _dense(path) == ([[200, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1]])
    path = _pair(tmp_path, parts([1, 0, 0, 0, 1, 1], np.float16), parts([1, -1, 0, 0, 0, 1], np.float64))
    assert _dense(path)[1] == [[1, 0, 0], [0, 0, 1]]  # a label is named, whatever the other entry says


def test_sums_of_text_have_a_limit_too(write: Write) -> None:
    for text in ("1 4 5\n0 3:2e38 1:1 3:2e38\n", "# remark\n\n0 3:2e38 1:1 3:2e38\n"):
        line = 2 if text.startswith("1") else 3
        with pytest.raises(DataError, match=f"line {line}: found values of feature 3 that add up to infinity"):
            read_matrices(write("a.svm", text))


def test_spare_entries_of_scipy_are_no_error(tmp_path: Path) -> None:
    path = _pair(tmp_path, _parts(X, indices=np.r_[X.indices, 9], data=np.r_[X.data, 9]), _parts(Y))
    assert _dense(path)[0] == X.toarray().tolist()


def test_no_pickle(tmp_path: Path) -> None:
    path = _pair(tmp_path, {"shape": np.array([object()])}, _parts(Y))
    for read in (lambda: read_matrices(path), lambda: read_scores(path, 2, 3)):
        with pytest.raises(DataError, match="not readable"):
            read()
    assert isinstance(open_data(_pair(tmp_path, _parts(X), _parts(Y))), Reading)
