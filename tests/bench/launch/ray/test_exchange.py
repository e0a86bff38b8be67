"""Files exchanged through a URL: of a local folder, and of a real S3 server on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.common.errors import InputError
from bench.launch.ray.exchange import Exchange, fetch_folder

HAS_S3 = all(importlib.util.find_spec(name) for name in ("s3fs", "moto", "flask"))
needs_s3 = pytest.mark.skipif(not HAS_S3, reason="s3fs and moto[server] are not installed")


@contextlib.contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """A server with one bucket, ``bench``, and the environment in which clients find it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    env = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    env |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).makedirs("bench", exist_ok=True)
        try:
            yield env
        finally:
            server.stop()


@pytest.fixture(params=["file", pytest.param("s3", marks=needs_s3)])
def exchange(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Exchange]:
    if request.param == "file":
        yield Exchange((tmp_path / "there").as_uri())
        return
    with s3_server():
        yield Exchange("s3://bench/some/folder/")


def test_files_that_were_pushed_are_pulled_unchanged(exchange: Exchange, tmp_path: Path) -> None:
    exchange.check()
    here = tmp_path / "here"
    here.mkdir()
    for name, content in {"record.json": b"{}", "spec.json": b"[]", "topk.npz": os.urandom(100_000)}.items():
        (here / name).write_bytes(content)
    (here / ".hidden.tmp").write_text("not to be seen")
    assert exchange.names("runs/a") == set()
    exchange.push_all(here, "runs/a")
    assert exchange.names("runs/a") == {"record.json", "spec.json", "topk.npz"}
    back = tmp_path / "back"
    back.mkdir()
    (back / "leftover").write_text("of an earlier attempt")
    fetch_folder(exchange, "runs/a", back)
    assert {path.name: path.read_bytes() for path in back.iterdir()} == {
        path.name: path.read_bytes() for path in here.iterdir() if not path.name.startswith(".")
    }
    exchange.remove(["spec.json", "never-there"], "runs/a")
    assert exchange.names("runs/a") == {"record.json", "topk.npz"}
    assert not exchange.pull("spec.json", "runs/a", tmp_path / "more")
    assert list((tmp_path / "more").iterdir()) == []


def test_files_that_mark_a_folder_complete_are_copied_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange, order = Exchange((tmp_path / "there").as_uri()), []
    for name in ("a.json", "record.json", "z.npz", "spec.json"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(Exchange, "push", lambda _, path, __: order.append(path.name))
    exchange.push_all(tmp_path, "x")
    assert order[0] == "z.npz"
    assert order[-1] == "record.json"


def test_a_url_of_an_unknown_kind() -> None:
    with pytest.raises(InputError, match=r"--exchange nothing://bucket: .*expected a URL that fsspec can open"):
        Exchange("nothing://bucket")


def test_a_url_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="expected to write and read there"):
        Exchange((tmp_path / "file").as_uri()).check()


@needs_s3
def test_a_bucket_that_does_not_exist() -> None:
    with s3_server(), pytest.raises(InputError, match=r"--exchange s3://other/x: .*expected to write and read there"):
        Exchange("s3://other/x").check()


@needs_s3
def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(InputError, match="expected to write and read there"):
        Exchange("s3://bench/x").check()
