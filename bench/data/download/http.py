"""Download one file: to ``NAME.part`` with resume and retries, then checked and renamed. HTTP goes through httpx."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.common.errors import InputError
from bench.common.files import sha256_of_file, sync

AGENT = "machbench (dataset download)"
REPORT_EVERY_S = 5.0
Progress = Callable[[str], None]


class DownloadError(InputError):
    """This address does not give the file; another address may."""


class Retry(Exception):
    """The transfer broke off; trying again may help."""


@dataclass(frozen=True)
class Patience:
    """When a download is tried again, and when it is given up."""

    retries: int = 5  # tries in a row without a new byte, after which the download fails
    timeout_s: float = 60.0  # silence of the server after which a try fails
    wait_s: float = 2.0  # pause before the next try; doubled after each try without a new byte


DEFAULT_PATIENCE = Patience()


def download(
    url: str,
    target: Path,
    sha256: str | None = None,
    progress: Progress = lambda _: None,
    patience: Patience = DEFAULT_PATIENCE,
) -> Path:
    """Fetch ``url`` into ``target``; a ``.part`` file left by an earlier try is resumed.

    Tries again when the connection stalls or breaks off or the server is overloaded. Raises DownloadError when
    ``patience`` is at its end, and for a missing page, a page of HTML instead of data, a wrong size or a wrong sha256;
    ``target`` is unchanged then. Raises InputError when httpx is not installed.
    """
    return keep_trying(
        lambda part: _transfer(url, part, progress, patience.timeout_s), url, target, sha256, progress, patience
    )


def keep_trying(
    transfer: Callable[[Path], None],
    address: str,
    target: Path,
    sha256: str | None,
    progress: Progress,
    patience: Patience,
) -> Path:
    """Call ``transfer(part)`` until it returns; DownloadError after too many `Retry` in a row without a new byte.

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
            if fruitless >= patience.retries:
                tries = f"{patience.retries} tries without progress"
                raise DownloadError(f"{address}: gave up after {tries}: {error}") from None
            progress(f"{target.name}: {error}; trying again")
            time.sleep(patience.wait_s * 2 ** max(fruitless - 1, 0))
        except OSError as error:  # network trouble is Retry: this is the disk
            raise InputError(f"{part}: cannot be written: {error}") from None
    _refuse_html(address, part)
    if sha256 is not None and (found := sha256_of_file(part)) != sha256:
        _forget(part)
        raise DownloadError(f"{address}: sha256: found {found}, expected {sha256}; the download was discarded")
    sync(part)
    part.rename(target)
    _meta(part).unlink(missing_ok=True)
    return target


def missing_library(name: str) -> InputError:
    """The error for a package of the extra ``data`` that is not installed."""
    return InputError(f'package {name} is not installed; run `pip install "machbench[data]"`')


def progress_reporter(name: str, progress: Progress) -> Callable[[int, int | None], None]:
    """A function of (bytes so far, total bytes or None) that reports every few seconds."""
    reported = time.monotonic()

    def report(done: int, total: int | None) -> None:
        nonlocal reported
        if time.monotonic() - reported > REPORT_EVERY_S:
            reported = time.monotonic()
            progress(f"{name}: {done / 1e6:,.0f}{f' of {total / 1e6:,.0f}' if total else ''} MB")

    return report


def worth_retrying(status: int) -> bool:
    """Whether an HTTP status means a temporary problem: a time-out, too many requests, an error of the server."""
    return status in (408, 425, 429) or status >= 500


def _transfer(url: str, part: Path, progress: Progress, timeout_s: float) -> None:
    """One connection. Returns when the file is complete according to the server."""
    try:
        import httpx
    except ImportError:
        raise missing_library("httpx") from None
    have, validator = _resumable(url, part)
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    report = progress_reporter(part.stem, progress)
    try:
        with httpx.stream("GET", url, headers=headers, timeout=timeout_s, follow_redirects=True) as response:
            start = _start(url, part, have, response.status_code, response.headers.get("Content-Range", ""))
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdigit() else None
            _write_meta(part, url, response.headers.get("ETag") or response.headers.get("Last-Modified") or "")
            with part.open("ab" if start else "wb") as file:
                for chunk in response.iter_raw():  # raises when fewer bytes come than announced
                    file.write(chunk)
                    report(file.tell(), total)
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
        raise Retry("the server refused to resume, or resumed at another byte")
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
