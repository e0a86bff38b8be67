"""`Dataset`, and how it is loaded from its card: identity, cache, memory maps, splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from bench.common.errors import InputError, unknown_name
from bench.common.paths import cache_root
from bench.data import cache
from bench.data.cards import Card, load_card
from bench.data.passport import passport, statistics
from bench.data.sources import Progress, source
from bench.data.sources.files import checked, complete

VALIDATION_SEED = 20_190_713


@dataclass(frozen=True)
class Split:
    """Features X [n, n_features] float32 and labels Y [n, n_labels] of ones: CSR, ids rising in each row."""

    X: csr_matrix
    Y: csr_matrix

    def __len__(self) -> int:
        return int(self.X.shape[0])

    def take(self, rows: NDArray[np.integer[Any]]) -> Split:
        """A copy of the given rows, in the given order."""
        return Split(self.X[rows], self.Y[rows])


@dataclass(frozen=True)
class Dataset:
    """A loaded dataset. Arrays of ``train`` and ``test`` are read-only memory maps: copy before changing.

    ``train`` is the complete official train split; ``validation`` is drawn from it (seeded, the same rows on every
    machine) and ``fit`` is the rest. ``propensity`` holds (A, B) of the propensity model.
    """

    name: str
    train: Split
    test: Split
    validation_rows: NDArray[np.int64]  # rising row numbers within train
    stats: dict[str, float]
    passport: dict[str, Any]  # order, duplicates and label groups, in JSON types: see `bench.data.passport`
    fingerprint: str  # first 16 hex digits of the sha256 over X and Y of train and test
    propensity: tuple[float, float]
    task: str
    source: str
    licence: str
    label_names: Path | None
    folder: Path
    notes: tuple[str, ...]

    @cached_property
    def train_filter(self) -> csr_matrix | None:
        """Labels that may not be predicted for a train point [n_train, n_labels]; None when there is no filter.

        It is applied where train points are ranked, which the validation points are, and has no part in training.
        """
        return self._filter("train", self.train)

    @cached_property
    def test_filter(self) -> csr_matrix | None:
        """Labels that may not be predicted for a test point [n_test, n_labels]; None when there is no filter."""
        return self._filter("test", self.test)

    def left_out(self, on: str) -> csr_matrix | None:
        """The pairs that may not be predicted for the points of ``on``, ``test`` or ``validation``: CSR [N, n_labels].

        None when these points have no filter.
        """
        if on == "validation":
            return None if self.train_filter is None else self.train_filter[self.validation_rows]
        return self.test_filter

    def _filter(self, name: str, split: Split) -> csr_matrix | None:
        path = filter_path(self.folder, name)
        if not path.is_file():
            return None
        pairs = np.load(path, allow_pickle=False)
        ones = np.ones(len(pairs), np.float32)
        return csr_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=split.Y.shape)

    @cached_property
    def validation(self) -> Split:
        """The points of train that are held out for choosing settings."""
        return self.train.take(self.validation_rows)

    @cached_property
    def fit(self) -> Split:
        """Train without the validation points."""
        keep = np.ones(len(self.train), dtype=bool)
        keep[self.validation_rows] = False
        return self.train.take(np.flatnonzero(keep)) if len(self.validation_rows) else self.train


def load_dataset(name: str, **overrides: Any) -> Dataset:
    """Load a dataset by name (or path to a card), building its cache on first use.

    ``overrides`` replace parameters of the card (``scale=0.01, seed=1`` for synthetic data) or its
    ``validation_points``. Raises InputError / DataError for wrong names, parameters and files.
    """
    card, parameters, validation_points = _resolve(name, overrides)
    folder = _build(card, parameters, lambda _: None)
    meta = cache.read_meta(folder)
    if meta is None:
        raise InputError(f"cache {folder} was removed while it was being opened; run again")
    matrices = cache.open_matrices(folder, meta)
    train = Split(matrices["train_X"], matrices["train_Y"])
    names = folder / "labels.txt"
    return Dataset(
        name=card.name,
        train=train,
        test=Split(matrices["test_X"], matrices["test_Y"]),
        validation_rows=validation_rows(len(train), validation_points),
        stats=meta["stats"],
        passport=meta["passport"],
        fingerprint=meta["fingerprint"][:16],
        propensity=card.propensity,
        task=card.task,
        source=card.origin,
        licence=card.licence,
        label_names=names if names.is_file() else None,
        folder=folder,
        notes=(*meta["notes"], *filter_notes(folder)),
    )


def filter_path(folder: Path, split: str) -> Path:
    """The file in a dataset's cache that has the (point, label) pairs of a split, if there are any."""
    return folder / f"{split}_filter.npy"


def filter_notes(folder: Path) -> list[str]:
    """A remark on a dataset of which one split has a filter and the other has none."""
    train, test = (filter_path(folder, split).is_file() for split in cache.SPLITS)
    if train == test:
        return []
    if test:
        return ["test points have a filter, train points have none: nothing is left out for validation points"]
    return ["train points have a filter, test points have none: it is for validation points alone"]


def prepare_dataset(name: str, progress: Progress | None = None, **overrides: Any) -> Path:
    """Build the dataset's cache unless it is there; returns its folder. ``progress`` gets a message for each
    step."""
    card, parameters, _ = _resolve(name, overrides)
    return _build(card, parameters, progress or (lambda _: None))


def dataset_fingerprint(name: str, **overrides: Any) -> str | None:
    """Fingerprint from the cache's meta file, without touching the arrays; None when the cache is not
    built."""
    found = cached_meta(name, **overrides)
    return found[1]["fingerprint"][:16] if found else None


def cached_meta(name: str, **overrides: Any) -> tuple[Path, dict[str, Any]] | None:
    """Folder and meta file of the cache; None when it is not built."""
    card = load_card(name)
    if card.source == "files" and not complete({**card.parameters, **installed_files(card), **overrides}):
        return None
    card, parameters, _ = _resolve(name, overrides)
    key = _key(card, parameters)
    folder = _folder(card, key)
    meta = cache.read_meta(folder, key)
    return (folder, meta) if meta else None


def validation_count(n_train: int, points: int | None) -> int:
    """Number of validation points: those that are wished for, or min(2000, 5 % of train)."""
    return min(2000, n_train // 20) if points is None else points


def validation_rows(n_train: int, points: int | None) -> NDArray[np.int64]:
    """Rising row numbers of the validation points: those whose hashed row number is smallest.

    Hashed with sha256, so the draw depends on no random generator's version.
    """
    count = validation_count(n_train, points)
    if not 0 <= count < max(n_train, 1):
        raise InputError(f"validation_points: found {count}; expected 0 to {max(n_train - 1, 0)}, below train's size")
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    digests = (hashlib.sha256(b"%d:%d" % (VALIDATION_SEED, row)).digest()[:8] for row in range(n_train))
    order = np.argsort(np.frombuffer(b"".join(digests), dtype=">u8"), kind="stable")
    return np.sort(order[:count])


def _resolve(name: str, overrides: Mapping[str, Any]) -> tuple[Card, dict[str, Any], int | None]:
    """Card, parameters of its source (defaults, card, overrides) and validation size."""
    card = load_card(name)
    parameters = resolve_parameters(card, overrides)
    validation = overrides.get("validation_points", card.validation_points)
    if card.source == "files":
        try:
            parameters = checked(parameters)
        except InputError as error:
            raise InputError(f"dataset {card.name}: {error}") from None
        if not complete(parameters):
            raise InputError(
                f"dataset {card.name} is not on disk; run `machbench data fetch {card.name}`, "
                f"or import files: `machbench data import {card.name} --train F --test F` (or --all F --splits F)"
            )
    if validation is not None and (isinstance(validation, bool) or not isinstance(validation, int)):
        raise InputError(f"dataset {card.name}: validation_points: found {validation!r}; expected a whole number")
    return card, parameters, validation


def resolve_parameters(card: Card, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of the card's source: its defaults, the card, recorded files, overrides. InputError for others."""
    defaults = source(card.source, card.path).DEFAULTS
    for key in card.parameters:
        if key not in defaults:
            raise unknown_name("parameter", key, defaults, where=f"{card.path}, parameters")
    for key in overrides:
        if key not in defaults and key != "validation_points":
            raise unknown_name("parameter", key, [*defaults, "validation_points"], where=f"dataset {card.name}")
    chosen = {key: value for key, value in overrides.items() if key != "validation_points"}
    return {**defaults, **card.parameters, **installed_files(card), **chosen}


def manifest_path(card: Card) -> Path:
    """The file that records which files are the dataset."""
    return cache_root() / "raw" / card.name / "files.json"


def installed_files(card: Card) -> dict[str, str]:
    """Files of the dataset that `data fetch` or `data import` recorded: {kind of file: path}."""
    path = manifest_path(card)
    if card.source != "files" or not path.is_file():
        return {}
    try:
        return {str(key): str(value) for key, value in json.loads(path.read_text())["files"].items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: not readable ({error}); remove it and fetch or import again") from None


def _key(card: Card, parameters: Mapping[str, Any]) -> dict[str, Any]:
    module = source(card.source, card.path)
    identity = dict(module.identity(parameters))
    # paths are not identity: the same bytes elsewhere are the same data
    kept = {key: value for key, value in parameters.items() if key not in identity}
    return {"source": card.source, "version": module.VERSION, "parameters": kept, "identity": identity}


def _folder(card: Card, key: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_root() / "datasets" / f"{card.name}-{digest[:16]}"


def _build(card: Card, parameters: Mapping[str, Any], progress: Progress) -> Path:
    module = source(card.source, card.path)
    key = _key(card, parameters)

    def write(out: cache.CacheWriter) -> Mapping[str, Any]:
        progress(f"building dataset {card.name}")
        module.build(parameters, out, progress)
        return {"name": card.name}

    return cache.build_once(_folder(card, key), key, write, _describe)


def _describe(matrices: Mapping[str, csr_matrix]) -> dict[str, Any]:
    return {"stats": statistics(matrices), "passport": passport(matrices)}


def identity_of(fingerprint: str, dataset: str) -> str:
    """The data's part of the identity of a run.

    The card decides how many train points are held out; that changes the run, but not the fingerprint of the data.
    """
    from bench.data import load_card

    return f"{fingerprint} {load_card(dataset).validation_points}"
