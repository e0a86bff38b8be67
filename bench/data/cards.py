"""Dataset cards: one YAML file per dataset under ``configs/dataset/``, checked key by key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.common.errors import InputError, unknown_name
from bench.common.paths import cache_root, config_root
from bench.config.yaml_files import check_keys, read_yaml

# Jain, Prabhu, Varma 2016 (propensity model); the constants of the XML Repository for other data
DEFAULT_PROPENSITY = (0.55, 1.5)
EXPECTED_KEYS = ("n_train", "n_test", "n_features", "n_labels", "labels_per_point", "features_per_point")


@dataclass(frozen=True)
class Card:
    """What a dataset is, where it comes from and the sizes that it should have."""

    name: str
    title: str
    source: str  # builder: a key of bench.data.sources.SOURCES
    task: str = "multilabel"  # or "multiclass"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    validation_points: int | None = None  # None: min(2000, 5 % of train)
    expected: Mapping[str, float] = field(default_factory=dict)
    propensity: tuple[float, float] = DEFAULT_PROPENSITY
    origin: str = ""
    licence: str = "not stated"
    recommended: Mapping[str, Any] = field(default_factory=dict)
    traps: tuple[str, ...] = ()
    fetch: tuple[Mapping[str, Any], ...] = ()  # addresses of the files, in order of preference
    by_hand: bool = False  # the files of `fetch` need a person's work before they can be read
    path: str = ""


def known_datasets() -> list[str]:
    """Names of all cards: the project's, then those that `data import` wrote."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")})


def load_card(name: str) -> Card:
    """The card called ``name``, or the card in a YAML file when ``name`` is a path to one.

    Raises InputError for an unknown name (with the nearest one), an unknown key or a value of the wrong kind.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"dataset card {name} does not exist")
        return read_card(path)
    for folder in _folders():
        if (path := folder / f"{name}.yaml").is_file() and "/" not in name:
            return read_card(path)
    raise unknown_name("dataset", name, known_datasets())


def user_cards() -> Path:
    """Folder of the cards that `data import` writes."""
    return cache_root() / "cards"


def _folders() -> list[Path]:
    return [config_root() / "dataset", user_cards()]


def read_card(path: Path) -> Card:
    """Parse and check one card file."""
    raw = read_yaml(path, {f.name for f in dataclasses.fields(Card)} - {"name", "path"})
    for key in ("title", "source"):
        if not isinstance(raw.get(key), str):
            raise InputError(f"{path}: key {key!r}: found {raw.get(key)!r}; expected text")
    if raw.get("task", "multilabel") not in ("multilabel", "multiclass"):
        raise InputError(f"{path}: key 'task': found {raw['task']!r}; expected multilabel or multiclass")
    for key in ("parameters", "expected", "recommended"):
        if not isinstance(raw.get(key, {}), dict):
            raise InputError(f"{path}: key {key!r}: found {raw[key]!r}; expected keys and values")
    check_keys(raw.get("expected", {}), EXPECTED_KEYS, "key", f"{path}, expected")
    for key, value in raw.get("expected", {}).items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InputError(f"{path}: key 'expected.{key}': found {value!r}; expected a number")
    _check_origins(path, raw.get("fetch", []))
    return Card(
        **{
            **raw,
            "name": path.stem,
            "path": str(path),
            "parameters": MappingProxyType(raw.get("parameters", {})),
            "expected": MappingProxyType(raw.get("expected", {})),
            "recommended": MappingProxyType(raw.get("recommended", {})),
            "propensity": _propensity(path, raw.get("propensity")),
            "traps": tuple(raw.get("traps", ())),
            "fetch": tuple(MappingProxyType(origin) for origin in raw.get("fetch", ())),
        }
    )


ORIGIN_KEYS = {
    "kind", "url", "id", "resourcekey", "files", "sha256", "note",
    "train", "test", "train_labels", "test_labels", "train_filter", "test_filter",
}  # fmt: skip


def _check_origins(path: Path, origins: Any) -> None:
    if not isinstance(origins, list):
        raise InputError(f"{path}: key 'fetch': found {origins!r}; expected a list of addresses")
    for number, origin in enumerate(origins):
        where = f"{path}, fetch[{number}]"
        if not isinstance(origin, dict) or origin.get("kind") not in ("http", "gdrive"):
            raise InputError(f"{where}: found {origin!r}; expected keys and values with kind: http or gdrive")
        check_keys(origin, ORIGIN_KEYS, "key", where)
        if not ({"id"} if origin["kind"] == "gdrive" else {"url", "files"}) & set(origin):
            raise InputError(f"{where}: found no address; expected id (gdrive), url or files (http)")


def _propensity(path: Path, value: Any) -> tuple[float, float]:
    if value is None:
        return DEFAULT_PROPENSITY
    if not (isinstance(value, dict) and set(value) == {"A", "B"}):
        raise InputError(f"{path}: key 'propensity': found {value!r}; expected {{A: number, B: number}}")
    return float(value["A"]), float(value["B"])
