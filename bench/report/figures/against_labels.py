"""The figures ``cost_against_labels`` and ``decode_time_against_labels``: what grows with the number of labels K."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.columns import MIB, OUT_OF_MEMORY
from bench.report.figures.drawing.labels import Label, label_ends
from bench.report.figures.drawing.machine import GIB, Machines, on_gpu
from bench.report.figures.drawing.panels import stack
from bench.report.figures.drawing.picture import Picture, measured, trace
from bench.report.figures.drawing.style import INK, RC, VERMILLION, Style, for_bucket_count, styles
from bench.report.figures.resolution import rounded_down
from bench.report.groups import Configuration, Stat
from bench.report.model_size import model_stat

NEEDED = 3  # values of K: with fewer a fitted line means nothing
K_FROM, K_TO = 1e4, 1e8  # the axis reaches at least this far


@dataclass(frozen=True)
class Measure:
    """A panel: ``stat`` of a configuration in the unit of the file, shown as ``value · scale``."""

    name: str
    title: str
    unit: str
    scale: float
    stat: Callable[[Configuration], Stat | None]
    bytes: bool = False


def _peak(group: Configuration) -> Stat | None:
    return group.stat("peak_gpu_allocated_bytes" if on_gpu(group.rows) else "peak_host_bytes")


def _per_query(group: Configuration) -> Stat | None:
    """Seconds of prediction per point."""
    stat = group.stat("predict_s")
    points = group.mean("n_test")
    if stat is None or not points:
        return None
    return Stat(stat.mean / points, stat.low / points, stat.high / points, None, None, stat.n)


COSTS = (
    Measure("params_output", "Output parameters", "millions", 1e-6, lambda g: g.stat("params_output")),
    Measure("model_bytes", "Weights and label index", "MiB", 1 / MIB, model_stat, bytes=True),
    Measure("peak_bytes", "Peak memory of the run", "MiB", 1 / MIB, _peak, bytes=True),
    Measure("fit_s", "Training time", "seconds", 1.0, lambda g: g.stat("fit_s")),
)
DECODING = (Measure("predict_s_per_query", "Prediction time per query", "milliseconds", 1e3, _per_query),)


@dataclass(frozen=True)
class Series:
    """A method (a hashed one at one B) over K: its configuration at each number of labels, K ascending."""

    method: str
    B: int | None
    label: str
    look: Style
    at: tuple[tuple[int, Configuration], ...]


def draw_cost(groups: Sequence[Configuration], machines: Machines, name: str = "cost_against_labels") -> Picture:
    """``groups``: the configurations of all datasets. Not drawn with fewer than three values of K."""
    return _draw(groups, machines, COSTS, "Cost against the number of labels K", name)


def draw_decoding(
    groups: Sequence[Configuration], machines: Machines, name: str = "decode_time_against_labels"
) -> Picture:
    """Like `draw_cost`, for the prediction time of one query."""
    return _draw(groups, machines, DECODING, "Decode time per query against the number of labels K", name)


def _draw(
    groups: Sequence[Configuration], machines: Machines, measures: Sequence[Measure], title: str, name: str
) -> Picture:
    sizes = labels_of(groups)
    series = _series(groups, sizes)
    counts = {K for one in series for K, _ in one.at}
    kept = [m for m in measures if any(m.stat(g) for one in series for _, g in one.at)]
    if len(counts) < NEEDED or not kept:
        return Picture(name, title, reason=f"finished runs have {len(counts)} values of K; a line needs {NEEDED}")
    rows: list[dict[str, Any]] = []
    with matplotlib.rc_context(RC):
        figure, axes = stack([1.75] * len(kept) if len(kept) > 1 else [3.4], right=0.72)
        ends = []
        for ax, measure in zip(axes, kept, strict=True):
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_xlim(min(K_FROM, *counts) / 1.3, max(K_TO, *counts) * 1.3)
            points, labels = _fill(ax, measure, series)
            rows += points
            if measure.name == "peak_bytes":
                rows += _unfit(ax, groups, sizes, measure)
            if measure.bytes:
                labels += _capacity(ax, groups, machines, measure)
            ends.append(labels)
            ax.set_title(measure.title)
            ax.set_ylabel(measure.unit)
            ax.tick_params(labelbottom=ax is axes[-1])
            ax.yaxis.set_major_formatter(FuncFormatter(_plain))
            ax.yaxis.set_minor_formatter(NullFormatter())
        axes[-1].set_xlabel("K, labels (log scale)")
        for ax, labels in zip(axes, ends, strict=True):
            label_ends(ax, labels)
    return Picture(name, title, _caption(series, kept, rows, machines), figure, rows)


def labels_of(groups: Sequence[Configuration]) -> dict[int, int]:
    """K of each configuration by identity, also of those whose runs failed before the data were counted: from the
    runs on the same data, or from the parameter ``dataset.n_labels`` that the experiment sweeps."""
    known: dict[Any, int] = {}
    for group in groups:
        for row in group.rows:
            if row["n_labels"] is not None:
                known[group.dataset] = row["n_labels"]
    found = {}
    for group in groups:
        K = known.get(group.dataset) or group.rows[0].get("dataset.n_labels")
        if K:
            found[id(group)] = int(K)
    return found


def _series(groups: Sequence[Configuration], sizes: dict[int, int]) -> list[Series]:
    """One per method and B: at each K its largest R and, of several settings, those with the highest P@1."""
    best: dict[tuple[str, int | None], dict[int, Configuration]] = {}
    for group in groups:
        if group.ok and id(group) in sizes:
            at = best.setdefault((group.method, group.B), {})
            K = sizes[id(group)]
            if K not in at or _rank(group) > _rank(at[K]):
                at[K] = group
    looks = styles(method for method, _ in best)
    found = []
    for (method, B), at in sorted(best.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        mine = sorted(b for m, b in best if m == method and b is not None)
        look = looks[method] if B is None else for_bucket_count(looks[method], mine.index(B), len(mine))
        label = method if B is None else f"{method} B = {B:,}"
        found.append(Series(method, B, label, look, tuple(sorted(at.items()))))
    return found


def _rank(group: Configuration) -> tuple[int, float]:
    return group.R or 0, group.mean("P@1") or 0.0


def affine_fit(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float | None]:
    """(constant, slope, R²) of ys ≈ constant + slope·xs, neither below 0, least squares of relative errors.

    A line in K that gives small and large K the same weight. R² is that of the logarithms; None where all are equal.
    """
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    scale = float(x.max())
    terms = np.column_stack([1 / y, x / scale / y])
    constant, slope = np.linalg.lstsq(terms, np.ones_like(y))[0]
    if constant < 0 or slope < 0:  # then the best line with neither below 0 has one of them at 0
        alone = terms.sum(axis=0) / (terms**2).sum(axis=0)
        errors = ((terms * alone - 1) ** 2).sum(axis=0)
        constant, slope = (alone[0], 0.0) if errors[0] <= errors[1] else (0.0, alone[1])
    fitted = np.log(constant + slope * x / scale)
    spread = float(((np.log(y) - np.log(y).mean()) ** 2).sum())
    r2 = 1 - float(((np.log(y) - fitted) ** 2).sum()) / spread if spread > 1e-18 else None
    return float(constant), float(slope) / scale, r2


def _fill(ax: Axes, measure: Measure, series: Sequence[Series]) -> tuple[list[dict[str, Any]], list[Label]]:
    rows, labels = [], []
    for rank, one in enumerate(series):
        under = 1 - rank / len(series)  # the first are drawn larger, so that they stay visible below others
        stats = [(K, g, s) for K, g in one.at if (s := measure.stat(g)) is not None and s.mean > 0]
        if not stats:
            continue
        xs, ys = [K for K, _, _ in stats], [s.mean * measure.scale for _, _, s in stats]
        ax.plot(xs, ys, color=one.look.color, marker=one.look.marker, ms=4 + 3 * under, linestyle="", zorder=3)
        ax.vlines(
            xs,
            [s.low * measure.scale for _, _, s in stats],
            [s.high * measure.scale for _, _, s in stats],
            one.look.color,
        )
        for K, group, stat in stats:
            spread = {"min": stat.low * measure.scale, "max": stat.high * measure.scale, "n_seeds": stat.n}
            numbers = {"K": K, "R": group.R, "mean": stat.mean * measure.scale, **spread}
            data = {"dataset": group.rows[0]["dataset"]}
            rows.append(_identity(measure, one, "measured") | data | numbers | trace([group]))
        end: tuple[float, float] = (xs[-1], ys[-1])
        if len(set(xs)) >= NEEDED:
            constant, slope, r2 = affine_fit(xs, ys)
            terms = {"constant": constant, "slope_per_label": slope, "r_squared_of_logs": r2}
            lowest, highest = ax.get_xlim()
            for at, line in ((np.geomspace(xs[0], xs[-1], 60), "-"), (np.geomspace(lowest, highest, 120), (0, (2, 2)))):
                width = 1.0 + 1.6 * under if line == "-" else 0.8
                ax.plot(at, constant + slope * at, color=one.look.color, linestyle=line, linewidth=width, zorder=2)
            end = (highest, constant + slope * highest)
            of = trace(g for _, g, _ in stats)
            for edge in (lowest, highest):
                fitted = {"K": edge, "mean": constant + slope * edge, **terms}
                rows.append(_identity(measure, one, "fit") | fitted | of)
        labels.append(Label(*end, one.label, one.look.color, one.look))
    return rows, labels


def _identity(measure: Measure, one: Series, kind: str) -> dict[str, Any]:
    return {"panel": measure.name, "unit": measure.unit, "kind": kind, "method": one.method, "B": one.B}


def _capacity(ax: Axes, groups: Sequence[Configuration], machines: Machines, measure: Measure) -> list[Label]:
    labels = []
    for gpu in (False, True):
        rows = [row for group in groups for row in group.rows if on_gpu([row]) == gpu]
        found = {machines[e].capacity(gpu) for row in rows if (e := row["env_id"]) in machines}
        for capacity in sorted(c for c in found if c):
            ax.axhline(capacity * measure.scale, color=INK, linestyle=(0, (4, 3)), linewidth=1.0)
            what = "GPU memory" if gpu else "host memory"
            labels.append(Label(ax.get_xlim()[1], capacity * measure.scale, f"{capacity / GIB:.1f} GiB {what}", INK))
    return labels[-1:]


def _unfit(ax: Axes, groups: Sequence[Configuration], sizes: dict[int, int], measure: Measure) -> list[dict[str, Any]]:
    """Crosses for runs that did not fit into memory, at the bytes that were predicted."""
    rows = []
    for group in groups:
        predicted, K = group.mean("predicted_peak_bytes", True), sizes.get(id(group))
        status = next((row["status"] for row in group.failed if row["status"] in OUT_OF_MEMORY), None)
        if status is None or group.ok or predicted is None or K is None:
            continue
        ax.plot(K, predicted * measure.scale, "X", color=VERMILLION, ms=6, zorder=4)
        identity = {"panel": measure.name, "unit": measure.unit, "kind": status, "method": group.method, "B": group.B}
        point = {"dataset": group.rows[0]["dataset"], "K": K, "R": group.R, "mean": predicted * measure.scale}
        rows.append(identity | point | trace([group], of_failed=True))
    return rows


def _plain(x: float, _: int) -> str:
    return f"{x:,.0f}" if x >= 1 else f"{x:g}"


def _caption(
    series: Sequence[Series], measures: Sequence[Measure], rows: Sequence[dict[str, Any]], machines: Machines
) -> str:
    sentences = ["Markers: measured."]
    fits = [r["r_squared_of_logs"] for r in rows if r["kind"] == "fit" and r["r_squared_of_logs"] is not None]
    if any(r["kind"] == "fit" for r in rows):
        worst = f"; R² of the logarithms at least {rounded_down(min(fits))}" if fits else ""
        sentences.append(
            "Lines: the model constant + slope · K fitted to a method's own markers, dashed where nothing was measured"
            f"{worst}; constants, slopes and each R² are in the csv."
        )
    if any(r["kind"] in OUT_OF_MEMORY for r in rows):
        sentences.append("Crosses: runs that ran out of memory, at the bytes predicted for them.")
    if measures[0] in DECODING:
        sentences.append("A query: network and decoding for one point, in the batches of the run.")
    groups = [group for one in series for _, group in one.at]
    datasets = list(dict.fromkeys(row["dataset"] for group in groups for row in group.rows))
    others = {(row["n_train"], row["n_features"]) for group in groups for row in group.ok}
    differ = "; besides K, the numbers of points or features differ too" if len(others) > 1 else ""
    repetitions = sorted({group.R for group in groups if group.R is not None})
    hashed = f" With B and R: R = {', '.join(map(str, repetitions))}." if repetitions else ""
    sentences.append(f"Dataset{'s' * (len(datasets) > 1)} {', '.join(datasets)}{differ}.{hashed}")
    return (
        f"{' '.join(sentences)} {measured(groups, machines, 'means, with a stroke from the smallest to the largest')}"
    )
