"""Wall time against the number of workers, on numbers that are formulae."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.report.figures import build_figures
from bench.report.figures.against_workers import spread
from bench.report.groups import grouped
from bench.results.table import rows_to_frame

Rows = list[dict[str, Any]]
NAME = "wall_time_against_workers"


@pytest.fixture
def own(make: Callable[..., Rows]) -> Rows:
    """One hashed run, R = 16 in 80 s, 120 s in all; and the others of the sweep without R."""
    rows = [row for row in make(failure=False) if row["method"] != "mach" or (row["B"] == 256 and row["R"] == 16)]
    for row in rows:
        if row["method"] == "mach":
            row |= {"fit_s": 80.0, "elapsed_s": 120.0}
    return rows


def drawn(rows: Rows) -> dict[tuple[str, str, str], dict[int, float]]:
    """Seconds by workers, for each panel, kind and method."""
    (picture,) = build_figures(rows_to_frame(rows), only=NAME)
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in picture.rows:
        found.setdefault((row["panel"], row["kind"], row["method"]), {})[row["workers"]] = row["seconds"]
    return found


def test_both_panels_have_numbers_beside_them(own: Rows) -> None:
    """Also where all seconds are between two powers of ten."""
    for row in own:
        row |= {"fit_s": 2.0 + (row.get("fit_s") or 0.0) / 100, "elapsed_s": 2.0 + (row.get("elapsed_s") or 0.0) / 100}
    (picture,) = build_figures(rows_to_frame(own), only=NAME)
    assert picture.figure is not None
    for ax in picture.figure.axes:
        low, high = ax.get_ylim()
        assert sum(low <= tick <= high for tick in ax.yaxis.get_majorticklocs()) >= 2


def test_the_busiest_worker_trains_what_is_left_after_an_even_cut(own: Rows) -> None:
    found = drawn(own)
    training = found["fit_s", "computed", "mach"]
    assert training == pytest.approx({1: 80, 2: 40, 3: 30, 4: 20, 6: 15, 8: 10, 16: 5})
    assert found["fit_s", "measured", "mach"] == {1: 80.0}
    assert found["elapsed_s", "computed", "mach"] == pytest.approx({W: 40 + s for W, s in training.items()})
    assert found["elapsed_s", "measured", "mach"] == {1: 120.0}
    assert found["fit_s", "measured", "full_softmax"] == {1: 61.0}
    assert ("fit_s", "measured", "label_frequency") not in found  # no output layer to be trained


def test_a_distributed_run_is_measured_at_its_number_of_workers(own: Rows) -> None:
    for row in own:
        if row["method"] == "mach":
            row |= {"training_processes": 4, "elapsed_s": 50.0}
    found = drawn(own)
    assert ("fit_s", "measured", "mach") not in found  # the sum of the seconds of four
    assert found["elapsed_s", "measured", "mach"] == {4: 50.0}
    assert found["elapsed_s", "computed", "mach"][4] == pytest.approx(50.0)
    assert found["elapsed_s", "computed", "mach"][1] == pytest.approx(30 + 80)


def test_no_wall_time_of_repetitions_that_were_trained_before(own: Rows) -> None:
    for row in own:
        if row["method"] == "mach":
            row |= {"training_processes": 4, "elapsed_s": 12.0}  # less than four workers take for it
    found = drawn(own)
    assert not any(panel == "elapsed_s" and method == "mach" for panel, _, method in found)
    assert found["fit_s", "computed", "mach"][16] == pytest.approx(5)


def test_repetitions_that_share_an_encoder_cannot_be_distributed(own: Rows) -> None:
    for row in own:
        if row["method"] == "mach":
            row["encoder_trained_by"] = 16
    assert spread(grouped(rows_to_frame(own))) == []
    (picture,) = build_figures(rows_to_frame(own), only=NAME)
    assert picture.figure is None
    assert "independent repetitions" in picture.reason
