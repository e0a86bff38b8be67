"""The figure ``head_torso_tail``: how much of P@1 comes from frequent labels, and how many rare ones are found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib

from bench.report.figures.drawing.bars import bars, key, row_panels, stacked
from bench.report.figures.drawing.machine import Machines
from bench.report.figures.drawing.panels import Curves, chosen
from bench.report.figures.drawing.picture import Picture, context, trace
from bench.report.figures.drawing.style import RC
from bench.report.groups import Configuration, points_of

TITLE = "Frequent and rare labels: head, torso and tail"
PARTS = ("head", "torso", "tail")
UNSEEN = "unseen"  # right predictions of labels that train never had: the rest of P@1
ROUNDING = 1e-9  # of the sum of the parts


def draw(groups: Sequence[Configuration], machines: Machines, name: str = "head_torso_tail") -> Picture:
    """``groups``: the configurations of one dataset. Not drawn when no finished run has quality by label frequency."""
    found = [c for c in chosen(groups, Curves(groups)) if all(c[0].stat(f"P@1_{part}") for part in PARTS)]
    if not found:
        return Picture(name, TITLE, reason="no finished run has its quality by label frequency (columns P@1_head …)")
    found.sort(key=lambda c: -(c[0].mean("P@1") or 0.0))
    shown = [group for group, _, _ in found]
    colors = [look.color for _, _, look in found]
    with matplotlib.rc_context(RC):
        figure, axes = row_panels([label for _, label, _ in found], [1.5, 1, 1, 1])
        parts, names = [_percent(shown, f"P@1_{part}") for part in PARTS], [*PARTS]
        if any(_unseen(group) for group in shown):
            parts.append([_unseen(group) for group in shown])
            names.append(UNSEEN)
        whole = _percent(shown, "P@1")
        stacked(axes[0], parts, whole, [_text(v) for v in whole])
        key(axes[0], names)
        axes[0].set_title("P@1, of which")
        axes[0].set_xlabel("per cent")
        for ax, part in zip(axes[1:], PARTS, strict=True):
            values = _percent(shown, f"R@5_{part}")
            bars(ax, values, colors, [_text(v) for v in values], at_least=100.0)
            ax.set_title(f"R@5, {part}")
            ax.set_xlabel("per cent")
            ax.set_xticks([0, 50, 100])
    rows = [_row(group) for group in shown]
    caption = (
        f"On {points_of(groups)}. Left: P@1 by the group of the predicted label; the parts add up to P@1. "
        "Right: of the labels of each group that the points have, the share found among the first 5. Groups by number "
        "of train points, as in docs/metrics.md: tail labels have 1 to 5, torso labels 6 to 100, head labels more, "
        "unseen labels none. For "
        "each method its best settings, for a method with B and R the largest R of each B. "
        f"{context(shown, machines, 'means')}"
    )
    return Picture(name, TITLE, caption, figure, rows)


def _percent(groups: Sequence[Configuration], column: str) -> list[float | None]:
    means = [group.mean(column) for group in groups]
    return [None if mean is None else 100 * mean for mean in means]


def _unseen(group: Configuration) -> float:
    """What is left of P@1 beside the parts, per cent."""
    rest = (group.mean("P@1") or 0.0) - sum(group.mean(f"P@1_{part}") or 0.0 for part in PARTS)
    return 100 * rest if rest > ROUNDING else 0.0


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _row(group: Configuration) -> dict[str, Any]:
    row: dict[str, Any] = {"dataset": group.dataset, "method": group.method, "B": group.B, "R": group.R}
    row |= {"n_seeds": len(group.ok)}
    for column in ("P@1", *(f"{metric}_{part}" for metric in ("P@1", "R@5") for part in PARTS)):
        (row[f"{column}_percent_mean"],) = _percent([group], column)
    row[f"P@1_{UNSEEN}_percent_mean"] = _unseen(group)
    return row | trace([group])
