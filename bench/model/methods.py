"""The class of a method, found by its dotted path."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from bench.common.code_hash import find_users_own
from bench.common.errors import InputError


def method_class(target: str) -> type:
    """The class behind a dotted path. InputError when there is none."""
    find_users_own()
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"method target {target!r}: {error}") from error
    if not isinstance(found, type):
        raise InputError(f"method target {target!r}: found {type(found).__name__}; expected a class")
    return found


def processes_of(method: type, settings: Mapping[str, Any]) -> int:
    """Processes that a run with a method's class takes. ValueError where the settings make no sense to the layer."""
    return int(method.processes(**settings)) if hasattr(method, "processes") else 1
