from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty_server import Server

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test builds into a cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MACHBENCH_CACHE", str(folder))
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a text file (gzipped when the name ends in .gz) into the test's folder."""

    def _write(name: str, text: str) -> Path:
        path = tmp_path / name
        data = text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return _write


@pytest.fixture
def shared() -> Path:
    """The folder of real files kept beside the checkout; tests skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data files beside the checkout ({SHARED.name} folder)")
    return SHARED


@pytest.fixture
def server() -> Iterator[Server]:
    """For one test; skips where the packages of the extra `data` are not installed."""
    pytest.importorskip("httpx")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()
    thread.join()
