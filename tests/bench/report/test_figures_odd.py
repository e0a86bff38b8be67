"""Figures of odd results: names that are formulae to matplotlib, labels that train never had, nothing right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.text import Text

from bench.report.figures import Picture, build_figures
from bench.report.figures.drawing.panels import whole_and_top
from bench.results.table import rows_to_frame

Rows = list[dict[str, Any]]
Make = Callable[..., Rows]


def drawing(rows: Rows, name: str) -> Picture:
    (picture,) = build_figures(rows_to_frame(rows), None, only=name)
    return picture


def test_names_with_dollars_and_underscores_are_drawn_as_text(make: Make, tmp_path: Path) -> None:
    """In matplotlib, text between two $ is a formula, and a legend leaves out what begins with _."""
    renamed = {"full_softmax": "cost $5 to $9", "mach": "_$R^2$_", "sampled_softmax": "$\\frac{$"}
    grouped_quality = {"P@1_head": 0.01, "P@1_torso": 0.01, "P@1_tail": 0.01} | {
        f"R@5_{part}": 0.1 for part in ("head", "torso", "tail")
    }
    rows = [row | grouped_quality | {"method": renamed.get(row["method"], row["method"])} for row in make()]
    seen: set[str] = set()
    for picture in build_figures(rows_to_frame(rows), tmp_path):
        if picture.figure is not None:
            picture.render("png")
            for text in picture.figure.findobj(Text):
                assert isinstance(text, Text)
                if any(name in text.get_text() for name in renamed.values()):
                    assert not text.get_parse_math(), picture.name
                    seen.add(picture.name)
    assert {"p1_against_r", "linear_cost_exponential_resolution", "head_torso_tail", "parameter_split"} <= seen
    legend = drawing(rows, "linear_cost_exponential_resolution").figure.axes[-1].figure  # type: ignore[union-attr]
    labels = [t.get_text() for ax in legend.axes if ax.get_legend() for t in ax.get_legend().get_texts()]
    assert any("_$R^2$_" in label for label in labels)


def test_the_bar_of_head_torso_and_tail_is_as_long_as_its_number(rows: list[dict[str, Any]]) -> None:
    """Right predictions of labels without a train point are part of P@1."""
    by_group = {"P@1_head": 0.1, "P@1_torso": 0.2, "P@1_tail": 0.05, "R@5_head": 0.1, "R@5_torso": 0.1, "R@5_tail": 0.1}
    some = [row | by_group | {"P@1": 0.75} for row in rows if row["method"] == "full_softmax"]
    picture = drawing(some, "head_torso_tail")
    assert picture.figure is not None
    bars = [patch for patch in picture.figure.axes[0].patches if patch.get_width() > 0]
    assert [round(bar.get_width(), 6) for bar in bars] == [10, 20, 5, 40]
    assert sum(bar.get_width() for bar in bars) == pytest.approx(75)
    assert picture.rows[0]["P@1_unseen_percent_mean"] == pytest.approx(40)
    whole = drawing([row | {"P@1": 0.35} for row in some], "head_torso_tail")
    legend = whole.figure.axes[0].get_legend()  # type: ignore[union-attr]
    assert [text.get_text() for text in legend.get_texts()] == ["head", "torso", "tail"]


@pytest.mark.filterwarnings("error")
def test_an_axis_from_0_where_nothing_is_right() -> None:
    figure, axes = whole_and_top([0.0, 0.0])
    assert len(axes) == 1
    low, high = figure.axes[0].get_ylim()
    assert low == 0
    assert high > 0
