from __future__ import annotations

import numpy as np
import pytest

from bench.errors import InputError
from bench.speed import compare, known, measure


def test_ratio_is_reference_over_variant() -> None:
    rows = compare("sum", {"plain": lambda: [np.arange(3)], "same": lambda: [np.arange(3)]}, repeats=3)
    assert [r["variant"] for r in rows] == ["plain", "same"]
    assert rows[0]["ratio"] == 1.0
    assert rows[1]["ratio"] == pytest.approx(rows[0]["median_s"] / rows[1]["median_s"])
    assert len(rows[1]["repeats_s"]) == 3


@pytest.mark.parametrize("wrong", [np.array([0, 2]), np.array([0.0, 1.5])])
def test_a_variant_with_other_results_is_no_measurement(wrong: np.ndarray) -> None:
    right = np.arange(2).astype(wrong.dtype)
    with pytest.raises(RuntimeError, match="different results"):
        compare("sum", {"plain": lambda: [right], "wrong": lambda: [wrong]}, repeats=1)


def test_unknown_measurements_are_named() -> None:
    assert {"decode", "softmax"} <= set(known())
    with pytest.raises(InputError, match="unknown measurement 'decod'; did you mean 'decode'"):
        next(measure("decod"))
