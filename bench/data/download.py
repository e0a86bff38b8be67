"""One file over HTTP: to ``NAME.part`` with resume and retries, checked, then renamed."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from bench.errors import InputError

CHUNK = 1 << 20
AGENT = "machbench (dataset download)"


class DownloadError(InputError):
    """This address does not give the file; another one may."""


class _Retry(Exception):
    """The transfer broke off; trying again may help."""


def download(
    url: str,
    target: Path,
    sha256: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
    retries: int = 5,
    timeout_s: float = 60.0,
    wait_s: float = 2.0,
) -> Path:
    """Fetch ``url`` into ``target``; a ``.part`` file left by an earlier try is resumed.

    Retries when the connection stalls, breaks off or the server is overloaded; gives up after ``retries``
    tries in a row that brought nothing. Raises DownloadError for a missing page, a page of HTML instead
    of data, a wrong size or a wrong sha256; ``target`` is untouched then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    fruitless = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _transfer(url, part, progress, timeout_s)
            break
        except (_Retry, OSError, http.client.HTTPException) as error:
            now = part.stat().st_size if part.exists() else 0
            fruitless = 0 if now > before else fruitless + 1
            if fruitless >= retries:
                raise DownloadError(f"{url}: gave up after {retries} tries without progress: {error}") from None
            progress(f"{target.name}: {error}; trying again")
            time.sleep(wait_s * 2 ** max(fruitless - 1, 0))
    _refuse_html(url, part)
    if sha256 is not None and (found := _sha256(part)) != sha256:
        _forget(part)
        raise DownloadError(f"{url}: sha256: found {found}, expected {sha256}; the download was discarded")
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(target)
    _meta(part).unlink(missing_ok=True)
    return target


def _transfer(url: str, part: Path, progress: Callable[[str], None], timeout_s: float) -> None:
    """One connection. Returns when the file is complete as far as the server tells."""
    have, validator = _resumable(url, part)
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing after what we have, or another file: start afresh
            _forget(part)
            raise _Retry("the server refused to resume") from None
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Retry(f"HTTP {error.code}") from None
        raise DownloadError(f"{url}: HTTP {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _Retry(str(error.reason)) from None
    with response:
        resumed = response.status == 206
        if resumed and not str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            _forget(part)
            raise _Retry("the server resumed at another place")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        _write_meta(part, url, response.headers.get("ETag") or response.headers.get("Last-Modified") or "")
        done, told = start, time.monotonic()
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read1(CHUNK):  # read() would lose what came before a stall
                file.write(chunk)
                done += len(chunk)
                if time.monotonic() - told > 5:
                    told = time.monotonic()
                    share = f" of {total / 1e6:,.0f}" if total else ""
                    progress(f"{part.stem}: {done / 1e6:,.0f}{share} MB")
        if total is not None and done < total:
            raise _Retry(f"the connection ended after {done:,} of {total:,} bytes")


def _resumable(url: str, part: Path) -> tuple[int, str]:
    """Bytes of an earlier try at the same address, and what proves that the server's file is still the
    same."""
    try:
        meta = json.loads(_meta(part).read_text())
        if meta["url"] == url and meta["validator"]:
            return part.stat().st_size, meta["validator"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, ""


def _write_meta(part: Path, url: str, validator: str) -> None:
    # a weak ETag must not be used with If-Range (RFC 9110, section 13.1.5)
    usable = "" if validator.startswith("W/") else validator
    _meta(part).write_text(json.dumps({"url": url, "validator": usable}))


def _meta(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _meta(part).unlink(missing_ok=True)


def _refuse_html(url: str, part: Path) -> None:
    with part.open("rb") as file:
        start = file.read(1024).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        _forget(part)
        raise DownloadError(f"{url}: found an HTML page (a login, quota or error page?), expected the data file")
    if not start:
        _forget(part)
        raise DownloadError(f"{url}: found an empty file")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
