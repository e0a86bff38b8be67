from __future__ import annotations

from pathlib import Path

import pytest

from bench.speed.parse import measure_parse


def test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variant is timed against scikit-learn; unequal values would have raised."""
    pytest.importorskip("sklearn")
    monkeypatch.setenv("MACHBENCH_CACHE", str(tmp_path))
    rows = measure_parse(scale=0.002, repeats=1)
    assert [set(row) for row in rows] == [{"what", "variant", "median_s", "ratio", "megabytes"}] * 4
    by_name = {row["variant"]: row for row in rows}
    assert by_name["sklearn load_svmlight_file"]["ratio"] == 1
    assert all(row["median_s"] > 0 for row in rows)
