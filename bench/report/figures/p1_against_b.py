"""The figure ``p1_against_b_at_equal_rb``: few repetitions of many buckets, or many of few."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.report.figures.drawing.labels import Label, label_ends
from bench.report.figures.drawing.machine import Machines
from bench.report.figures.drawing.panels import Curves, draw_band, draw_curve, whole_and_top
from bench.report.figures.drawing.picture import Picture, context, trace
from bench.report.figures.drawing.style import RC, Style, for_bucket_count, styles
from bench.report.groups import Configuration, points_of

TITLE = "P@1 against the number of buckets B at equal R·B"
BOLD = 7  # products that are labelled; the others are faint
Series = tuple[tuple[str, int], list[Configuration]]


def draw(groups: Sequence[Configuration], machines: Machines, name: str = "p1_against_b_at_equal_rb") -> Picture:
    """``groups``: the configurations of one dataset. Not drawn unless two values of B have the same R·B.

    Of several settings of a method and B, those with the highest P@1 are drawn.
    """
    series = _series(groups)
    if not series:
        return Picture(name, TITLE, reason="no two values of B were evaluated at the same R·B")
    bold = _bold(series)
    shown = [group for _, line in series for group in line]
    looks = _looks(series, bold)
    with matplotlib.rc_context(RC):
        figure, axes = whole_and_top([100 * (group.mean("P@1") or 0.0) for group in shown])
        for ax in axes:
            for key, line in series:
                stats = [s for group in line if (s := group.stat("P@1")) is not None]
                at = [group.B or 0 for group in line]
                draw_curve(ax, at, [100 * s.mean for s in stats], looks[key], key in bold)
                if key in bold:
                    draw_band(ax, at, [100 * s.low for s in stats], [100 * s.high for s in stats], looks[key])
            ax.set_ylabel(f"P@1 on {points_of(groups)} (%)")
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(FixedLocator(sorted({group.B or 0 for group in shown})))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.margins(x=0.05)
        axes[-1].set_xlabel("B, buckets per repetition (log scale)")
        for ax in axes:
            label_ends(ax, [label for key, line in series if key in bold for label in _label(ax, key, line, looks)])
    rows = []
    for (method, product), line in series:
        for group in line:
            stat = group.stat("P@1")
            assert stat is not None
            identity = {"dataset": group.dataset, "method": method, "R_times_B": product, "B": group.B, "R": group.R}
            percent = {"P@1_percent_mean": 100 * stat.mean, "P@1_percent_min": 100 * stat.low}
            rows.append(
                identity | {"n_seeds": stat.n} | percent | {"P@1_percent_max": 100 * stat.high} | trace([group])
            )
    faint = " Bold: products a factor of about 2 apart that most values of B reach." if len(series) > len(bold) else ""
    caption = (
        "Along a curve R falls as B grows: the product R·B, and with it the number of output parameters, stays the "
        f"same (input layers and the index grow with R).{faint} {context(shown, machines)}"
    )
    return Picture(name, TITLE, caption, figure, rows)


def _series(groups: Sequence[Configuration]) -> list[Series]:
    """The configurations of each method and product R·B that two or more values of B reach, B ascending."""
    curves = Curves(groups)
    found: dict[tuple[str, int], list[Configuration]] = {}
    for i, line in enumerate(curves.all):
        for group in line if curves.bold(i) else []:
            found.setdefault((group.method, int(group.R or 0) * int(group.B or 0)), []).append(group)
    return sorted((key, sorted(line, key=lambda g: g.B or 0)) for key, line in found.items() if len(line) > 1)


def _label(
    ax: Axes, key: tuple[str, int], line: Sequence[Configuration], looks: dict[tuple[str, int], Style]
) -> list[Label]:
    """The curve's label at its last point within the axes; none where no point is."""
    low, high = ax.get_ylim()
    at = [(group.B or 0, y) for group in line if low <= (y := 100 * (group.mean("P@1") or 0.0)) <= high]
    return [Label(*at[-1], f"{key[0]} R·B = {key[1]:,}", looks[key].color, looks[key])] if at else []


def _bold(series: Sequence[Series]) -> set[tuple[str, int]]:
    """The products to label: of each octave the one that most values of B reach, of these those with most."""
    octaves: dict[tuple[str, int], Series] = {}
    for one in series:
        (method, product), line = one
        octave = method, product.bit_length()
        if octave not in octaves or len(line) > len(octaves[octave][1]):
            octaves[octave] = one
    widest = sorted(octaves.values(), key=lambda one: (-len(one[1]), -one[0][1]))
    return {key for key, _ in widest[:BOLD]}


def _looks(series: Sequence[Series], bold: set[tuple[str, int]]) -> dict[tuple[str, int], Style]:
    """In the hue of the method; the bold products from light to dark as they grow."""
    own = styles(method for (method, _), _ in series)
    ranks = {key: rank for rank, key in enumerate(sorted(bold, key=lambda key: key[1]))}
    return {key: for_bucket_count(own[key[0]], ranks.get(key, 0), len(ranks)) for key, _ in series}
