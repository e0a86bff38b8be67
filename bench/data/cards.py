"""Dataset cards: one YAML file a dataset under ``configs/dataset/``, checked key by key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from bench.common.errors import InputError, unknown_name
from bench.common.paths import cache_root, config_root

# Jain, Prabhu, Varma 2016 (propensity model); the XML Repository's constants for data of no stated kind
DEFAULT_PROPENSITY = (0.55, 1.5)
EXPECTED_KEYS = ("n_train", "n_test", "n_features", "n_labels", "labels_per_point", "features_per_point")


@dataclass(frozen=True)
class Card:
    """What a dataset is, where it comes from and what its numbers should be."""

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
    fetch: tuple[Mapping[str, Any], ...] = ()  # ways to get the files, in order of preference
    by_hand: bool = False  # the ways of `fetch` need a person's work before the files can be read
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
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: found {type(raw).__name__}; expected keys and values")
    fields = {f.name for f in dataclasses.fields(Card)} - {"name", "path"}
    for key in raw:
        if key not in fields:
            raise unknown_name("key", str(key), fields, where=str(path))
    for key in ("title", "source"):
        if not isinstance(raw.get(key), str):
            raise InputError(f"{path}: key {key!r}: found {raw.get(key)!r}; expected text")
    if raw.get("task", "multilabel") not in ("multilabel", "multiclass"):
        raise InputError(f"{path}: key 'task': found {raw['task']!r}; expected multilabel or multiclass")
    for key in ("parameters", "expected", "recommended"):
        if not isinstance(raw.get(key, {}), dict):
            raise InputError(f"{path}: key {key!r}: found {raw[key]!r}; expected keys and values")
    for key, value in raw.get("expected", {}).items():
        if key not in EXPECTED_KEYS:
            raise unknown_name("key", str(key), EXPECTED_KEYS, where=f"{path}, expected")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InputError(f"{path}: key 'expected.{key}': found {value!r}; expected a number")
    _check_ways(path, raw.get("fetch", []))
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
            "fetch": tuple(MappingProxyType(way) for way in raw.get("fetch", ())),
        }
    )


WAY_KEYS = {
    "kind", "url", "id", "resourcekey", "files", "sha256", "note",
    "train", "test", "train_labels", "test_labels", "train_filter", "test_filter",
}  # fmt: skip


def _check_ways(path: Path, ways: Any) -> None:
    if not isinstance(ways, list):
        raise InputError(f"{path}: key 'fetch': found {ways!r}; expected a list of ways")
    for number, way in enumerate(ways):
        where = f"{path}, fetch[{number}]"
        if not isinstance(way, dict) or way.get("kind") not in ("http", "gdrive"):
            raise InputError(f"{where}: found {way!r}; expected keys and values with kind: http or gdrive")
        for key in way:
            if key not in WAY_KEYS:
                raise unknown_name("key", str(key), WAY_KEYS, where=where)
        if not ({"id"} if way["kind"] == "gdrive" else {"url", "files"}) & set(way):
            raise InputError(f"{where}: found no address; expected id (gdrive), url or files (http)")


def _propensity(path: Path, value: Any) -> tuple[float, float]:
    if value is None:
        return DEFAULT_PROPENSITY
    if not (isinstance(value, dict) and set(value) == {"A", "B"}):
        raise InputError(f"{path}: key 'propensity': found {value!r}; expected {{A: number, B: number}}")
    return float(value["A"]), float(value["B"])
