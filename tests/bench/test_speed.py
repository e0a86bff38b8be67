from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.errors import InputError
from bench.speed import compare, known, measure, parse


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


def test_parse_compares_equal_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reader is timed against scikit-learn's; unequal arrays would have raised."""
    pytest.importorskip("sklearn")
    monkeypatch.setenv("MACHBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(parse, "SCALE", 0.002)
    rows = compare("parse", parse.parse(), repeats=1)
    assert next(row["variant"] for row in rows) == "sklearn load_svmlight_file"
    assert len(rows) == 4
    assert all(row["median_s"] > 0 for row in rows)
