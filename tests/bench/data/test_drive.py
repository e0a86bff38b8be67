"""Google Drive through gdown, with a local server instead of Google's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from faulty_server import BODY, TEST, TRAIN, Server, zip_of

from bench.common.errors import InputError
from bench.data import load_dataset
from bench.data.download.fetch import fetch_dataset
from bench.data.download.google_drive import drive_download
from bench.data.download.http import DownloadError, Patience

requests = pytest.importorskip("requests")
pytest.importorskip("gdown")

BIG = BODY * 4  # gdown keeps whole pieces of half a megabyte
KEPT = len(BIG) // 2 // (1 << 19) * (1 << 19)
FIRST = "/uc?id=abc"
CONFIRMED = "/download?id=abc&confirm=t"
FORM = (  # one line, as Drive sends it
    b'<html><form id="download-form" action="https://drive.usercontent.google.com/download">'
    b'<input type="hidden" name="id" value="abc"><input type="hidden" name="confirm" value="t"></form></html>'
)


@pytest.fixture
def drive(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Requests for Google Drive go to the local server, and gdown does not pause between tries."""
    real = requests.Session.get

    def get(session: Any, url: str, **options: Any) -> Any:
        host, _, path = url.removeprefix("https://").partition("/")
        assert host in ("drive.google.com", "drive.usercontent.google.com")
        return real(session, server.url(f"/{path}"), **options)

    monkeypatch.setattr(requests.Session, "get", get)
    monkeypatch.setattr("random.uniform", lambda low, _: low)
    server.files[FIRST] = BIG
    return server


def _fetch(target: Path, **options: Any) -> Path:
    return drive_download("abc", target, **{"patience": Patience(3, timeout_s=0.5, wait_s=0.01), **options})


@pytest.mark.parametrize("fault", ["", "cut", "stall"])
def test_recovers(drive: Server, tmp_path: Path, fault: str) -> None:
    drive.faults = [fault]
    assert _fetch(tmp_path / "f").read_bytes() == BIG
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f"]
    if fault:
        assert drive.requests == [None, f"bytes={KEPT}-"]


def test_the_confirmation_page_is_answered(drive: Server, tmp_path: Path) -> None:
    drive.files |= {FIRST: FORM, CONFIRMED: BIG}
    assert _fetch(tmp_path / "f").read_bytes() == BIG


def test_a_resource_key_reaches_the_server(drive: Server, tmp_path: Path) -> None:
    drive.faults = ["503"]
    drive.files = {"/download?id=abc&resourcekey=0-k&export=download&confirm=t": BIG}
    assert _fetch(tmp_path / "f", resourcekey="0-k").read_bytes() == BIG


def test_resumes_what_an_earlier_process_left(drive: Server, tmp_path: Path) -> None:
    drive.faults = ["cut"]
    with pytest.raises(DownloadError, match="is incomplete"):
        _fetch(tmp_path / "f", patience=Patience(0, timeout_s=0.5, wait_s=0.01))
    drive.requests.clear()
    assert _fetch(tmp_path / "f").read_bytes() == BIG
    assert drive.requests == [None, f"bytes={KEPT}-"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f"]


@pytest.mark.parametrize("left", [b"x" * 1000, BIG + b"x"])
def test_a_leftover_that_cannot_be_continued_is_dropped(drive: Server, tmp_path: Path, left: bytes) -> None:
    drive.ranges = False
    (tmp_path / "f.part12345678.part").write_bytes(left)
    assert _fetch(tmp_path / "f").read_bytes() == BIG
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f"]


@pytest.mark.parametrize("fault", ["404", "503", "html"])
def test_gives_up(drive: Server, tmp_path: Path, fault: str) -> None:
    drive.faults = [fault] * 20
    with pytest.raises(DownloadError, match="id=abc"):
        _fetch(tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_wrong_hash(drive: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="sha256: found"):
        _fetch(tmp_path / "f", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []
    assert _fetch(tmp_path / "f", sha256=hashlib.sha256(BIG).hexdigest()).exists()
    assert len(drive.requests) == 2


def test_a_card_with_a_drive_link(drive: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "configs" / "dataset"
    folder.mkdir(parents=True)
    (folder / "demo.yaml").write_text(
        "title: demo\nsource: files\nfetch:\n  - {kind: gdrive, id: gone}\n  - {kind: gdrive, id: abc}\n"
    )
    monkeypatch.setenv("MACHBENCH_CONFIGS", str(folder.parent))
    patience = Patience(retries=1, timeout_s=0.5, wait_s=0.01)
    drive.files[FIRST] = b"no archive"
    with pytest.raises(InputError, match="data import demo --train") as caught:
        fetch_dataset("demo", patience=patience)
    assert "id=gone" in str(caught.value)
    assert "tar or zip archive; the download was discarded" in str(caught.value)
    drive.files[FIRST] = zip_of(d__some_train_txt=TRAIN, d__some_test_txt=TEST)
    fetch_dataset("demo", patience=patience)
    assert load_dataset("demo").stats["n_train"] == 3
