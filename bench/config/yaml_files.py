"""YAML files: found by name, read, their keys checked, changed by ``key=value``. Every YAML file is read here.

OmegaConf is imported only where its syntax is used, because the process of a run reads a YAML file too (the card of its
dataset) and its memory is measured.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from bench.common.errors import InputError, unknown_name
from bench.common.paths import config_root

SUFFIXES = (".yaml", ".yml")


def config_path(kind: str, name: str) -> Path:
    """The file of a name under configs/<kind>/, or of a path to a YAML file; InputError when there is none."""
    if name.endswith(SUFFIXES):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"{kind} file {name!r} does not exist")
        return path
    folder = config_root() / kind
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise unknown_name(kind, name, (p.stem for p in folder.glob("*.yaml")))
    return path


class _Loader(yaml.SafeLoader):
    """As OmegaConf reads YAML: 1e-3 is a number, a date is text, and a key given twice is an error.

    1:30 and 010 are text too, not the 90 and the 8 of YAML 1.1, which nobody means.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_NO_NUMBER = ("tag:yaml.org,2002:str", re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)$"))
for _first in "-+0123456789":
    _Loader.yaml_implicit_resolvers[_first].insert(0, _NO_NUMBER)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9][0-9_]*)(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path, known: Collection[str] | None = None) -> dict[str, Any]:
    """The keys and values of a file, with ``${...}`` resolved; ``known``: the keys that the file may have.

    Raises InputError naming the file when it cannot be read as YAML, holds something else than keys and values, or has
    an unknown key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, _Loader)
        if "${" in text:
            from omegaconf import OmegaConf

            content = OmegaConf.to_container(OmegaConf.create(content), resolve=True)
    except Exception as error:  # OmegaConf and the YAML reader raise unrelated classes
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    content = {} if content is None else content  # an empty file
    if not isinstance(content, dict):
        raise InputError(f"{path}: found {reprlib.repr(content)}; expected keys and values")
    if known is not None:
        check_keys(content, known, "key", str(path))
    return {str(key): value for key, value in content.items()}


def apply_override(config: dict[str, Any], override: str, known: Collection[str]) -> None:
    """Set ``a.b.c=value``, a in ``known``; a comma makes a list, which is a sweep. InputError when that cannot be."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r}: expected key=value, for example methods.mach.B=1024")
    parts = key.split(".")
    if parts[0] not in known:
        raise unknown_name("key", parts[0], known, f"override {override!r}")
    try:
        value = yaml.load(_listed(text), _Loader)
    except Exception as error:
        raise InputError(f"override {override!r}: cannot read the value: {' '.join(str(error).split())}") from error
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
    """A list unchanged, anything else as a list of one."""
    return value if isinstance(value, list) else [value]


def check_keys(found: Any, known: Collection[str], kind: str, where: str) -> None:
    """InputError when ``found`` is not a mapping or has an unknown key; ``kind`` says what the keys are."""
    if not isinstance(found, Mapping):
        raise InputError(f"{where}: found {found!r}; expected keys and values")
    for key in found:
        if key not in known:
            raise unknown_name(kind, str(key), known, where)
