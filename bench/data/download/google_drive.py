"""One file from Google Drive, through gdown: it knows Drive's confirmation pages and resumes broken transfers."""

from __future__ import annotations

from pathlib import Path

from bench.data.download.http import (
    DEFAULT_PATIENCE,
    DownloadError,
    Patience,
    Progress,
    Retry,
    keep_trying,
    missing_library,
    progress_reporter,
    worth_retrying,
)

DIRECT = "https://drive.usercontent.google.com/download"


def drive_address(file_id: str, resourcekey: str | None = None) -> str:
    """The address that a person can open, and that needs no confirmation page."""
    key = f"&resourcekey={resourcekey}" if resourcekey else ""
    return f"{DIRECT}?id={file_id}{key}&export=download&confirm=t"


def drive_download(
    file_id: str,
    target: Path,
    resourcekey: str | None = None,
    sha256: str | None = None,
    progress: Progress = lambda _: None,
    patience: Patience = DEFAULT_PATIENCE,
) -> Path:
    """Fetch a public file of Google Drive into ``target``; what an earlier try left is resumed where Drive allows it.

    A resumed file may differ from the one before (gdown compares only within one transfer): only ``sha256`` or the
    checksums of the archive show that. Raises DownloadError as `bench.data.download.http.download` does, and for a file
    that Drive does not give (removed, private, over its quota); ``target`` is unchanged then. Raises InputError when
    gdown is not installed."""
    address = drive_address(file_id, resourcekey)

    def transfer(part: Path) -> None:
        # gdown drops the resource key from every address in which it recognises a file's id
        _transfer(None if resourcekey else file_id, address, part, progress, patience)

    return keep_trying(transfer, address, target, sha256, progress, patience)


def _transfer(file_id: str | None, address: str, part: Path, progress: Progress, patience: Patience) -> None:
    try:
        import gdown
        import requests  # gdown's own transport: its errors come through
    except ImportError:
        raise missing_library("gdown") from None
    before = _leftover_bytes(part)
    try:
        gdown.download(
            address if file_id is None else None,
            id=file_id,
            output=str(part),
            quiet=True,
            use_cookies=False,  # nothing is read from or left in the home folder
            resume=True,
            timeout=patience.timeout_s,
            retries=patience.retries,
            progress=progress_reporter(part.stem, progress),
        )
    except requests.HTTPError as error:
        if error.response is not None and worth_retrying(error.response.status_code):
            raise Retry(f"HTTP {error.response.status_code}") from None
        raise DownloadError(f"{address}: {error}") from None
    except gdown.exceptions.DownloadError as error:
        network = isinstance(error.__cause__, requests.RequestException)
        if before and not network and _leftover_bytes(part) <= before:
            for path in _leftovers(part):
                path.unlink()
            raise Retry("Google Drive refused to resume") from None
        raise DownloadError(f"{address}: {' '.join(str(error).split())}") from None
    except requests.RequestException as error:
        raise Retry(f"{type(error).__name__}: {error}") from None
    except (LookupError, AssertionError) as error:  # from gdown, for an answer that is not like Drive's
        raise DownloadError(f"{address}: found an answer that gdown cannot read ({error!r})") from None


def _leftovers(part: Path) -> list[Path]:
    """What gdown keeps of a transfer that broke off: the name and eight characters of its own."""
    return [path for path in part.parent.glob(f"{part.name}????????.part") if path.is_file()]


def _leftover_bytes(part: Path) -> int:
    return sum(path.stat().st_size for path in _leftovers(part))
