"""YAML files of configs: found by name, read, changed by ``key=value``, and their keys checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bench.common.errors import InputError, unknown_name
from bench.common.paths import config_root


def config_path(kind: str, name: str) -> Path:
    """The file behind a name under configs/<kind>/, or behind a path to a YAML file; InputError when there is none."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"{kind} file {name!r} does not exist")
        return path
    folder = config_root() / kind
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise unknown_name(kind, name, (p.stem for p in folder.glob("*.yaml")))
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a file; InputError when it is not readable YAML or holds something else."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except Exception as error:  # OmegaConf and the YAML reader raise unrelated classes
        raise InputError(f"{path}: not a readable YAML file: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: found {type(content).__name__}; expected keys and values")
    return {str(key): value for key, value in content.items()}


def apply_override(config: dict[str, Any], override: str, known: Sequence[str]) -> None:
    """Set ``a.b.c=value``, a in ``known``; a comma makes a list, which is a sweep. InputError when that cannot be."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r}: expected key=value, for example methods.mach.B=1024")
    parts = key.split(".")
    if parts[0] not in known:
        raise unknown_name("key", parts[0], known, f"override {override!r}")
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={_listed(text)}"]))["value"]  # type: ignore[index,call-overload]
    except Exception as error:
        raise InputError(f"override {override!r}: cannot read the value: {error}") from error
    node = config
    for part in parts[:-1]:
        if not isinstance(node.get(part), dict):
            if node.get(part) is not None and not (part == "dataset" and isinstance(node[part], str)):
                raise InputError(f"override {override!r}: {part} is a value and has no keys")
            node[part] = {"name": node[part]} if isinstance(node.get(part), str) else {}
        node = node[part]
    node[parts[-1]] = value


def _listed(text: str) -> str:
    return f"[{text}]" if "," in text and not text.startswith(("[", "{")) else text


def as_list(value: Any) -> list[Any]:
    """A list as it is, anything else as a list of one."""
    return value if isinstance(value, list) else [value]


def check_keys(found: Mapping[str, Any], known: Sequence[str] | set[str], kind: str, where: str) -> None:
    """InputError when ``found`` is no mapping or has a key that is not known; ``kind`` says what the keys are."""
    if not isinstance(found, Mapping):
        raise InputError(f"{where}: found {found!r}; expected keys and values")
    for key in found:
        if key not in known:
            raise unknown_name(kind, key, known, where)
