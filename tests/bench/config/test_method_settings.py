"""Settings of a method against its constructor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from torch import nn

from bench.common.errors import InputError
from bench.config.method_settings import Mismatch, checked_settings, constructor_parameters, converted

if TYPE_CHECKING:
    from decimal import Decimal  # a name that does not exist when annotations are evaluated


class Everything:
    def __init__(
        self,
        *,
        B: Annotated[int, ">= 1", "<= 100"],
        loss: Literal["bce", "softmax"] = "bce",
        power: Annotated[float, "> 0"] = 1.0,
        share: bool = False,
        widths: Sequence[int] = (),
        cutoffs: str | float = "0.1",
        limit: int | None = None,
        free=None,  # type: ignore[no-untyped-def]
        exact: Decimal | None = None,
    ) -> None: ...


def check(**settings: Any) -> dict[str, Any]:
    return checked_settings(Everything, settings, (), "method mine.Everything")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"B": 7}, {"B": 7}),
        ({"B": 1e2}, {"B": 100}),
        ({"B": 3, "power": 2}, {"B": 3, "power": 2}),
        ({"B": 3, "limit": None}, {"B": 3, "limit": None}),
        ({"B": 3, "limit": 5.0}, {"B": 3, "limit": 5}),
        ({"B": 3, "cutoffs": 0.2, "widths": [1, 2.0]}, {"B": 3, "cutoffs": 0.2, "widths": [1, 2]}),
        ({"B": 3, "free": {"a": [1]}, "exact": "1.5"}, {"B": 3, "free": {"a": [1]}, "exact": "1.5"}),
    ],
)
def test_settings_that_fit_and_whole_floats_for_ints(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    found = check(**settings)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "setting B: found none; expected a whole number of at least 1 and of at most 100"),
        ({"B": 16.5}, "setting B: found 16.5; expected a whole number of at least 1"),
        ({"B": True}, "setting B: found True; expected a whole number"),
        ({"B": "16"}, "setting B: found '16'; expected a whole number"),
        ({"B": 0}, "setting B: found 0; expected a whole number of at least 1"),
        ({"B": 101}, "setting B: found 101; expected a whole number of at least 1 and of at most 100"),
        ({"B": 1e3}, "setting B: found 1000.0; expected"),
        ({"B": float("inf")}, "setting B: found inf; expected a whole number"),
        ({"B": None}, "setting B: found None; expected a whole number"),
        ({"B": 3, "loss": "bec"}, "setting loss: found 'bec'; expected one of bce, softmax"),
        ({"B": 3, "power": 0}, "setting power: found 0; expected a number above 0"),
        ({"B": 3, "power": False}, "setting power: found False; expected a number above 0"),
        ({"B": 3, "share": 1}, "setting share: found 1; expected true or false"),
        ({"B": 3, "widths": 8}, "setting widths: found 8; expected a list of a whole number"),
        ({"B": 3, "widths": [8, "x"]}, r"setting widths: found \[8, 'x'\]; expected a list"),
        ({"B": 3, "cutoffs": [1]}, r"setting cutoffs: found \[1\]; expected text or a number"),
        ({"B": 3, "limit": 1.5}, "setting limit: found 1.5; expected a whole number or null"),
        ({"B": 3, "lose": "bce"}, "unknown setting 'lose' in method mine.Everything; did you mean 'loss'"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        check(**settings)
    assert "method mine.Everything" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("annotation", "value", "fits"),
    [
        (int | None, None, True),
        (int | str, 2.0, True),
        (bool | int, True, True),
        (Literal[1, 2], True, False),
        (tuple[int, ...], [1, 2, 3], True),
        (tuple[int, str], [1, "a"], True),
        (tuple[int, str], [1], False),
        (Mapping[str, int], {"a": 1}, True),
        (Mapping[str, int], [1], False),
        (Annotated[int, "a note", ">= 2"], 1, False),
        (Annotated[int, "a note"], 1, True),
        (list, [1, "x"], True),
        (str, ["a"], False),
        (Any, object, True),
    ],
)
def test_annotations(annotation: Any, value: Any, fits: bool) -> None:
    if fits:
        assert converted(value, annotation) == value
    else:
        with pytest.raises(Mismatch):
            converted(value, annotation)


class Base(nn.Module):
    def __init__(self, *, n_labels: int, hidden: int, bias: bool = True) -> None:
        del n_labels, hidden, bias
        super().__init__()


class Derived(Base):
    def __init__(self, *, loss: str = "bce", **linear: Any) -> None:
        del loss
        super().__init__(**linear)


class Open(nn.Module):
    def __init__(self, rank: int, **others: Any) -> None:
        del rank, others
        super().__init__()


class Without:
    pass


def test_keywords_of_a_base_class_are_those_of_the_class_that_passes_them_on() -> None:
    parameters, takes_any = constructor_parameters(Derived)
    assert (list(parameters), takes_any) == (["loss", "n_labels", "hidden", "bias"], False)
    assert checked_settings(Derived, {"bias": False}, ("n_labels", "hidden"), "m") == {"bias": False}
    with pytest.raises(InputError, match="unknown setting 'bais' in m; did you mean 'bias'"):
        checked_settings(Derived, {"bais": False}, ("n_labels", "hidden"), "m")


def test_a_constructor_that_takes_any_keyword_is_checked_where_it_says_something() -> None:
    assert checked_settings(Open, {"rank": 2, "x": object}, ("n_labels",), "m") == {"rank": 2, "x": object}
    with pytest.raises(InputError, match="m, setting rank: found 'a'"):
        checked_settings(Open, {"rank": "a"}, (), "m")
    assert checked_settings(Without, {}, (), "m") == {}
    with pytest.raises(InputError, match="unknown setting 'x' in m"):
        checked_settings(Without, {"x": 1}, (), "m")


class Wrapped:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings


class Wrapper(Wrapped):
    def __init__(self, **settings: Any) -> None:
        super().__init__(settings)


class Fixed(Base):
    def __init__(self, **linear: Any) -> None:
        super().__init__(n_labels=3, hidden=4, **linear)


def test_a_class_may_use_its_keywords_in_a_way_that_no_signature_shows() -> None:
    assert checked_settings(Wrapper, {"which": 1}, (), "m") == {"which": 1}
    assert checked_settings(Fixed, {"bias": True}, (), "m") == {"bias": True}
    with pytest.raises(InputError, match="m, setting bias: found 3"):
        checked_settings(Fixed, {"bias": 3}, (), "m")


def test_what_the_harness_supplies_is_no_setting_and_must_be_taken() -> None:
    with pytest.raises(InputError, match="m, setting hidden: found 3; expected none: the harness supplies it"):
        checked_settings(Derived, {"hidden": 3}, ("n_labels", "hidden"), "m")
    with pytest.raises(InputError, match=r"m: found a constructor with .*; expected n_labels, hidden, seeds too"):
        checked_settings(Base, {}, ("n_labels", "hidden", "seeds"), "m")
