"""The files of a dataset: from an address that its card names, or from files that the user has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bench.common.errors import DataError, InputError, unknown_name
from bench.common.files import write_atomic
from bench.common.locks import hold
from bench.common.paths import cache_root
from bench.data import cache
from bench.data.cards import Card, known_datasets, load_card, user_cards
from bench.data.dataset import installed_files, manifest_path, prepare_dataset
from bench.data.download.archive import extract, is_archive
from bench.data.download.google_drive import drive_address, drive_download
from bench.data.download.http import DEFAULT_PATIENCE, Patience, download
from bench.data.sources import Progress
from bench.data.sources.files import FILES, complete, file_sha256

LONGEST_NAME = 100  # of a dataset that is imported; names of files have at most 255 bytes

# names that published archives give their files, the most specific first
USUAL = {
    "train": ("**/trn_X_Xf.txt", "**/X.trn.npz", "**/*train*.txt", "**/*train*.svm"),
    "test": ("**/tst_X_Xf.txt", "**/X.tst.npz", "**/*test*.txt", "**/*test*.svm"),
}


def fetch_dataset(
    name: str,
    progress: Progress = lambda _: None,
    patience: Patience = DEFAULT_PATIENCE,
) -> Path:
    """Get the dataset's files and build its cache; returns the cache's folder.

    Datasets with a builder are built. For the others the addresses of the card are tried in order; the files
    must match the card's statistics and, from the second time on, the sha256 in the lock file.
    Raises InputError that says what failed and how to import the files by hand.
    """
    card = load_card(name)
    if card.source != "files" or complete({**card.parameters, **installed_files(card)}):
        return prepare_dataset(name, progress)
    failures = []
    for number, origin in enumerate(() if card.by_hand else card.fetch):
        try:
            files = _get(card, number, progress, patience)
            return install(name, files, progress, locked=True)
        except InputError as error:
            progress(f"{_address(origin)}: {error}")
            failures.append(f"{_address(origin)}: {error}")
    raise InputError("\n".join([f"dataset {card.name} could not be fetched", *failures, by_hand(card)]))


def by_hand(card: Card) -> str:
    """Where a person gets the files, and the line that imports them."""
    addresses = "".join(f"\n  {_address(origin)}" for origin in card.fetch) or f"\n  {card.origin}"
    traps = "".join(f"\n  note: {trap}" for trap in card.traps) if card.by_hand else ""
    return (
        f"get the files by hand from one of{addresses}{traps}\n"
        f"then run: machbench data import {card.name} --train TRAIN_FILE --test TEST_FILE\n"
        f"or, with one file of all points: machbench data import {card.name} --all FILE --splits FILE_OF_TRAIN_ROWS"
    )


def install(name: str, files: Mapping[str, Path], progress: Progress, locked: bool = False) -> Path:
    """Take files (keys of `bench.data.sources.files.FILES`) as the dataset ``name``, after checking them against
    its card.

    An unknown name gets a card of its own. Raises InputError for a dataset that is built without files, and when the
    contents differ from the card's statistics or (``locked``) from the sha256 noted at an earlier fetch; nothing is
    installed then.
    """
    for key in files:
        if key not in FILES:
            raise unknown_name("kind of file", key, FILES, where=f"import of {name}")
    absolute = {key: str(path.expanduser().resolve()) for key, path in files.items()}
    fresh = name not in known_datasets()
    if not fresh and (source := load_card(name).source) != "files":
        raise InputError(
            f"data import {name}: found a dataset that machbench builds itself (source {source}); "
            f"expected another name for these files, such as {name}-own"
        )
    if fresh:
        _write_card(name)
    card = load_card(name)
    manifest = manifest_path(card)
    previous = manifest.read_bytes() if manifest.is_file() else None
    try:
        if locked:
            _check_lock(card, absolute)
        write_atomic(manifest, json.dumps({"files": absolute}, indent=1))
        folder = prepare_dataset(name, progress)
        try:
            _check_statistics(card, folder)
        except InputError:
            shutil.rmtree(folder)
            raise
        if locked:
            _write_lock(card, absolute)
    except BaseException:
        if previous is None:
            manifest.unlink(missing_ok=True)
        else:
            manifest.write_bytes(previous)
        if fresh:
            (user_cards() / f"{name}.yaml").unlink(missing_ok=True)
        raise
    return folder


def lock_path() -> Path:
    """sha256 of every file that was once fetched and matched its card."""
    return cache_root() / "fetched.lock.json"


def _get(card: Card, number: int, progress: Progress, patience: Patience) -> dict[str, Path]:
    """Download from address ``number`` of the card; {kind of file: path}."""
    origin, folder = card.fetch[number], cache_root() / "raw" / card.name / str(number)
    with hold(folder / ".lock", wait=True):  # two processes must not write into one .part file
        if "files" not in origin:
            return _choose(origin, _unpack(origin, folder, progress, patience))
        files = {}
        for key, url in origin["files"].items():
            target = folder / url.rsplit("/", 1)[-1]
            files[key] = target if target.is_file() else download(url, target, progress=progress, patience=patience)
        return files


def _unpack(origin: Mapping[str, Any], folder: Path, progress: Progress, patience: Patience) -> Path:
    """Folder of the archive's contents. An archive that cannot be unpacked is removed: the next try downloads it
    again."""
    url, drive = _address(origin), origin["kind"] == "gdrive"
    archive = folder / (origin["id"] if drive else url.rsplit("/", 1)[-1])
    unpacked = folder / "unpacked"
    if not archive.is_file():
        progress(f"downloading {url}")
        if drive:
            drive_download(origin["id"], archive, origin.get("resourcekey"), origin.get("sha256"), progress, patience)
        else:
            download(url, archive, origin.get("sha256"), progress, patience)
    if not unpacked.is_dir():
        progress(f"unpacking {archive.name}")
        try:
            if not is_archive(archive):
                raise DataError(archive, None, "another kind of file", "a tar or zip archive")
            extract(archive, unpacked)
        except DataError as error:
            archive.unlink()
            raise InputError(f"{url}: {error}; the download was discarded") from None
    return unpacked


def _choose(origin: Mapping[str, Any], unpacked: Path) -> dict[str, Path]:
    """The data files of an unpacked archive: by the patterns in the card, else by the usual names."""
    found = {}
    for key in FILES:
        patterns = (origin[key],) if key in origin else USUAL.get(key, ())
        for pattern in patterns:
            matches = sorted(path for path in unpacked.glob(pattern) if path.is_file())
            if len(matches) > 1:
                names = ", ".join(str(path.relative_to(unpacked)) for path in matches[:5])
                raise InputError(f"{_address(origin)}: several files could be {key}: {names}")
            if matches:
                found[key] = matches[0]
                break
        if key not in found and patterns:
            raise InputError(f"{_address(origin)}: no file in the archive matches {' or '.join(patterns)}")
    return found


def _address(origin: Mapping[str, Any]) -> str:
    if origin["kind"] == "gdrive":
        return drive_address(origin["id"], origin.get("resourcekey"))
    return str(origin["url"]) if "url" in origin else " ".join(origin["files"].values())


def _check_statistics(card: Card, folder: Path) -> None:
    meta = cache.read_meta(folder)
    stats = meta["stats"] if meta else {}
    wrong = []
    for key, expected in card.expected.items():
        found = stats.get(key, 0)
        if abs(found - expected) > (0.01 * expected if "per_point" in key else 0):
            wrong.append(f"{key}: found {found:,.6g}, expected {expected:,.6g}")
    if wrong:
        raise InputError(
            f"the files are not the dataset {card.name} as published ({'; '.join(wrong)}); "
            "import them under another name if they are what you want"
        )


def _check_lock(card: Card, files: Mapping[str, str]) -> None:
    known = _lock().get(card.name, {})
    for key, path in files.items():
        if key in known and (found := file_sha256(Path(path))) != known[key]:
            raise InputError(
                f"{path}: sha256: found {found}, expected {known[key]}, as noted at an earlier fetch in "
                f"{lock_path()}; remove that entry if the new file is right"
            )


def _write_lock(card: Card, files: Mapping[str, str]) -> None:
    lock = _lock()
    lock[card.name] = {key: file_sha256(Path(path)) for key, path in files.items()}
    write_atomic(lock_path(), json.dumps(lock, indent=1, sort_keys=True))


def _lock() -> dict[str, dict[str, str]]:
    try:
        found = json.loads(lock_path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{lock_path()}: not readable as JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise InputError(f"{lock_path()}: found no table of datasets; remove the file to start again")
    return found


def _write_card(name: str) -> None:
    if not name.replace("-", "").replace("_", "").isalnum() or len(name) > LONGEST_NAME:
        raise InputError(f"dataset name {name!r}: expected letters, digits, - and _, at most {LONGEST_NAME} of them")
    card = {"title": f"{name} (imported)", "source": "files", "origin": "imported by the user"}
    write_atomic(user_cards() / f"{name}.yaml", yaml.safe_dump(card))
