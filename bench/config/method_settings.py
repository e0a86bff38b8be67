"""The settings of a method against its constructor: names, types by annotation, and ranges. Nothing is executed.

Annotations that are checked: int, float, bool, str, Literal, None, unions, sequences and mappings, and ``Annotated``
with ranges such as ``Annotated[int, ">= 1", "<= 100"]``, or with a function that raises ValueError for a value that it
refuses: ``Annotated[str, estimator_names]``. Any other annotation, or none, accepts every value.
"""

from __future__ import annotations

import inspect
import numbers
import operator
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from bench.common.errors import InputError, unknown_name

SUPPLIED = ("n_labels", "hidden", "train_labels", "seeds")  # keywords of an output layer that the harness supplies
RANGE = re.compile(r"(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?)")
RANGES: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    ">=": (operator.ge, "of at least"),
    "<=": (operator.le, "of at most"),
    ">": (operator.gt, "above"),
    "<": (operator.lt, "below"),
}
WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}
Parameters = Mapping[str, inspect.Parameter]  # by name; annotations as objects


class Mismatch(Exception):
    """A value is not what its annotation says; the words, if any, are those of a function that refused it."""


def checked_settings(method: type, settings: Mapping[str, Any], supplied: Sequence[str], where: str) -> dict[str, Any]:
    """The settings as the constructor expects them: a whole float such as 1e3 for an int becomes 1000.

    supplied: keywords that the harness adds. InputError, which starts with ``where``, for a setting that is unknown,
    missing, of another type or out of its range, and for one that the harness supplies.
    """
    parameters, takes_any = constructor_parameters(method)
    for name in supplied:
        if name in settings:
            raise InputError(
                f"{where}, setting {name}: found {settings[name]!r}; expected none: the harness supplies it"
            )
        if name not in parameters and not takes_any:
            listed = ", ".join(parameters) or "none"
            raise InputError(f"{where}: found a constructor with keywords {listed}; expected {', '.join(supplied)} too")
    known = [name for name in parameters if name not in supplied]
    for name in settings:
        if name not in parameters and not takes_any:
            raise unknown_name("setting", str(name), known, where)
    for name in known:
        if name not in settings and parameters[name].default is inspect.Parameter.empty:
            raise InputError(f"{where}, setting {name}: found none; expected {_described(parameters[name].annotation)}")
    return {name: _checked(parameters.get(name), name, value, where) for name, value in settings.items()}


def _checked(parameter: inspect.Parameter | None, name: str, value: Any, where: str) -> Any:
    if parameter is None:
        return value
    try:
        return converted(value, parameter.annotation)
    except Mismatch as mismatch:
        why = str(mismatch) or f"found {value!r}; expected {_described(parameter.annotation)}"
        raise InputError(f"{where}, setting {name}: {why}") from None


def constructor_parameters(method: type) -> tuple[Parameters, bool]:
    """Keywords of a constructor, and whether it takes any others.

    ``**keywords`` of a constructor stand for the keyword-only parameters of the next base class that has a
    constructor; none of those is required, because the class may pass it itself. Where the base class has no
    keyword-only parameters, nobody knows what becomes of the keywords, and any are taken.
    """
    found: dict[str, inspect.Parameter] = {}
    open_ended = inherited = False
    for base in method.__mro__:
        init = vars(base).get("__init__")
        if init is None or base is object:
            continue
        try:
            own = list(inspect.signature(init).parameters.values())[1:]  # without self
        except ValueError:  # compiled
            return found, True
        if base.__module__.partition(".")[0] == "torch":
            return found, True
        if inherited and not any(parameter.kind is parameter.KEYWORD_ONLY for parameter in own):
            return found, True
        for parameter in own:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                annotation = _evaluated(parameter.annotation, init)
                default = None if inherited and parameter.default is parameter.empty else parameter.default
                found.setdefault(parameter.name, parameter.replace(annotation=annotation, default=default))
        open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in own)
        if not open_ended:
            break
        inherited = True
    return found, open_ended


def _evaluated(annotation: Any, init: Any) -> Any:
    """An annotation as an object; Any where it cannot be evaluated here."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, init.__globals__)
    except Exception:  # names that exist for type checkers alone
        return Any


def converted(value: Any, annotation: Any) -> Any:
    """The value, with whole floats as ints where an int is expected. Mismatch where it is not of that type."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _in_ranges(converted(value, arguments[0]), arguments[1:])
    if origin in (Union, types.UnionType):
        return _one_of(value, arguments)
    if origin is Literal:
        return _expect(any(value == known and type(value) is type(known) for known in arguments), value)
    if annotation in (None, type(None)):
        return _expect(value is None, value)
    if annotation in (bool, str):
        return _expect(isinstance(value, annotation), value)
    if annotation is float:
        return _expect(isinstance(value, numbers.Real) and not isinstance(value, bool), value)
    if annotation is int:
        return _whole(value)
    kind = origin or annotation
    if not isinstance(kind, type) or not issubclass(kind, Sequence | Mapping):
        return value
    if issubclass(kind, Mapping):
        return _expect(isinstance(value, Mapping), value)
    return _sequence(value, arguments)


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise Mismatch
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return _expect(isinstance(value, numbers.Integral), value)


def _expect(right: bool, value: Any) -> Any:
    if not right:
        raise Mismatch
    return value


def _one_of(value: Any, members: Sequence[Any]) -> Any:
    """Unchanged where some member of a union accepts it so, otherwise as the first member that accepts it gives it."""
    found = []
    for member in members:
        try:
            found.append(converted(value, member))
        except Mismatch:
            continue
    if not found:
        raise Mismatch
    unchanged = [one for one in found if type(one) is type(value)]
    return (unchanged or found)[0]


def _sequence(value: Any, elements: Sequence[Any]) -> Any:
    if not isinstance(value, list | tuple):
        raise Mismatch
    if not elements:
        return value
    if len(elements) == 1 or elements[-1] is Ellipsis:
        elements = [elements[0]] * len(value)
    _expect(len(elements) == len(value), value)
    return type(value)(converted(one, kind) for one, kind in zip(value, elements, strict=True))


def _in_ranges(value: Any, ranges: Sequence[Any]) -> Any:
    for limit in ranges:
        found = RANGE.fullmatch(limit) if isinstance(limit, str) else None
        if found and not RANGES[found[1]][0](value, float(found[2])):
            raise Mismatch
        if callable(limit):
            try:
                limit(value)
            except ValueError as refused:
                raise Mismatch(str(refused)) from None
    return value


def _described(annotation: Any) -> str:
    """What an annotation accepts, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [RANGE.fullmatch(limit) for limit in arguments[1:] if isinstance(limit, str)]
        words = [f"{RANGES[limit[1]][1]} {limit[2]}" for limit in limits if limit]
        return " ".join([_described(arguments[0]), " and ".join(words)]).strip()
    if origin in (Union, types.UnionType):
        return " or ".join(_described(member) for member in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}" if len(arguments) > 1 else repr(arguments[0])
    if annotation in WORDS:
        return WORDS[annotation]
    kind = origin or annotation
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "keys and values"
    if isinstance(kind, type) and issubclass(kind, Sequence):
        return f"a list of {_described(arguments[0])}" if arguments else "a list"
    return "a value"
