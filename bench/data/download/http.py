"""One file from elsewhere: to ``NAME.part`` with resume and retries, checked, then renamed. HTTP goes through httpx."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from bench.common.errors import InputError

AGENT = "machbench (dataset download)"
TELL_EVERY_S = 5.0
Progress = Callable[[str], None]


class DownloadError(InputError):
    """This address does not give the file; another one may."""


class Retry(Exception):
    """The transfer broke off; trying again may help."""


def download(
    url: str,
    target: Path,
    sha256: str | None = None,
    progress: Progress = lambda _: None,
    retries: int = 5,
    timeout_s: float = 60.0,
    wait_s: float = 2.0,
) -> Path:
    """Fetch ``url`` into ``target``; a ``.part`` file left by an earlier try is resumed.

    Retries when the connection stalls, breaks off or the server is overloaded; gives up after ``retries``
    tries in a row that brought nothing. Raises DownloadError for a missing page, a page of HTML instead
    of data, a wrong size or a wrong sha256; ``target`` is untouched then. Raises InputError when httpx is
    not installed.
    """
    return keep_trying(
        lambda part: _transfer(url, part, progress, timeout_s), url, target, sha256, progress, retries, wait_s
    )


def keep_trying(
    transfer: Callable[[Path], None],
    address: str,
    target: Path,
    sha256: str | None,
    progress: Progress,
    retries: int,
    wait_s: float,
) -> Path:
    """Call ``transfer(part)`` until it returns, giving up after ``retries`` `Retry` in a row that brought nothing.

    Then checks the part (no HTML, not empty, ``sha256``), syncs it and renames it to ``target``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    fruitless = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            transfer(part)
            break
        except Retry as error:
            now = part.stat().st_size if part.exists() else 0
            fruitless = 0 if now > before else fruitless + 1
            if fruitless >= retries:
                raise DownloadError(f"{address}: gave up after {retries} tries without progress: {error}") from None
            progress(f"{target.name}: {error}; trying again")
            time.sleep(wait_s * 2 ** max(fruitless - 1, 0))
        except OSError as error:  # network trouble is Retry: this is the disk
            raise InputError(f"{part}: cannot be written: {error}") from None
    _refuse_html(address, part)
    if sha256 is not None and (found := _sha256(part)) != sha256:
        _forget(part)
        raise DownloadError(f"{address}: sha256: found {found}, expected {sha256}; the download was discarded")
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(target)
    _meta(part).unlink(missing_ok=True)
    return target


def missing_library(name: str) -> InputError:
    """The error for a package of the extra ``data`` that is not installed."""
    return InputError(f'package {name} is not installed; run `pip install "machbench[data]"`')


def teller(name: str, progress: Progress) -> Callable[[int, int | None], None]:
    """A function of (bytes so far, bytes in all or None) that reports every few seconds."""
    told = time.monotonic()

    def tell(done: int, total: int | None) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_EVERY_S:
            told = time.monotonic()
            progress(f"{name}: {done / 1e6:,.0f}{f' of {total / 1e6:,.0f}' if total else ''} MB")

    return tell


def worth_retrying(status: int) -> bool:
    """Whether an HTTP status tells of passing trouble: a time-out, too many requests, a server's own error."""
    return status in (408, 425, 429) or status >= 500


def _transfer(url: str, part: Path, progress: Progress, timeout_s: float) -> None:
    """One connection. Returns when the file is complete as far as the server tells."""
    try:
        import httpx
    except ImportError:
        raise missing_library("httpx") from None
    have, validator = _resumable(url, part)
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    tell = teller(part.stem, progress)
    try:
        with httpx.stream("GET", url, headers=headers, timeout=timeout_s, follow_redirects=True) as response:
            start = _start(url, part, have, response.status_code, response.headers.get("Content-Range", ""))
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdigit() else None
            _write_meta(part, url, response.headers.get("ETag") or response.headers.get("Last-Modified") or "")
            with part.open("ab" if start else "wb") as file:
                for chunk in response.iter_raw():  # raises when fewer bytes come than announced
                    file.write(chunk)
                    tell(file.tell(), total)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects) as error:
        raise DownloadError(f"{url}: {error}") from None
    except httpx.TransportError as error:
        raise Retry(f"{type(error).__name__}: {error}") from None


def _start(url: str, part: Path, have: int, status: int, content_range: str) -> int:
    """Where the bytes of an answer belong: 0, or behind the ``have`` bytes of an earlier try.

    Raises Retry or DownloadError when the answer brings no file.
    """
    if status == 200:
        return 0
    if status == 206 and have and content_range.startswith(f"bytes {have}-"):
        return have
    if status in (206, 416):  # nothing after what we have, or another file: start afresh
        _forget(part)
        raise Retry("the server refused to resume, or did so at another place")
    if worth_retrying(status):
        raise Retry(f"HTTP {status}")
    raise DownloadError(f"{url}: HTTP {status}")


def _resumable(url: str, part: Path) -> tuple[int, str]:
    """Bytes of an earlier try at the same address, and what proves that the server's file is still the same."""
    try:
        meta = json.loads(_meta(part).read_text())
        if meta["url"] == url and meta["validator"]:
            return part.stat().st_size, meta["validator"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, ""


def _write_meta(part: Path, url: str, validator: str) -> None:
    # a weak ETag must not be used with If-Range (RFC 9110, section 13.1.5); headers are sent as ASCII
    usable = "" if validator.startswith("W/") or not validator.isascii() else validator
    _meta(part).write_text(json.dumps({"url": url, "validator": usable}))


def _meta(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _meta(part).unlink(missing_ok=True)


def _refuse_html(address: str, part: Path) -> None:
    with part.open("rb") as file:
        start = file.read(1024).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        _forget(part)
        raise DownloadError(f"{address}: found an HTML page (a login, quota or error page?), expected the data file")
    if not start:
        _forget(part)
        raise DownloadError(f"{address}: found an empty file")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
