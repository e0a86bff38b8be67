"""A picture with its caption and its numbers, or the reason why there is none; sentences that captions share."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from bench.common.files import write_atomic
from bench.report.figures.drawing.machine import Machines, on_gpu
from bench.report.figures.drawing.style import DPI, RC
from bench.report.groups import Configuration, repeats

_DATES = {"png": {"Software": None}, "pdf": {"CreationDate": None, "ModDate": None}, "svg": {"Date": None}}


@dataclass(frozen=True)
class Picture:
    """``rows``: the plotted numbers, one dict per point. ``reason``: why nothing was drawn (no ``figure``)."""

    name: str
    title: str
    caption: str = ""
    figure: Figure | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""

    def render(self, kind: str) -> bytes:
        """The picture as png (200 dpi), pdf or svg; equal input gives equal bytes."""
        if self.figure is None:
            raise ValueError(f"{self.name} was not drawn: {self.reason}")
        out = io.BytesIO()
        with matplotlib.rc_context(RC):
            self.figure.savefig(out, format=kind, dpi=DPI, bbox_inches=self._box, metadata=_DATES[kind])
        return out.getvalue()

    @cached_property
    def _box(self) -> Bbox:
        """The area of the picture in inches, measured once for all file formats."""
        assert self.figure is not None
        return self.figure.get_tightbbox(FigureCanvasAgg(self.figure).get_renderer()).padded(0.1)

    def csv(self) -> str:
        """The plotted numbers; a missing value is empty."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([["" if row.get(n) is None else row[n] for n in names] for row in self.rows])
        return out.getvalue()

    def write(self, folder: Path) -> list[Path]:
        """Write .png, .pdf, .svg, .csv and the caption as .txt; without a figure only the .txt with the reason."""
        if self.figure is None:
            return [write_atomic(folder / f"{self.name}.txt", f"{self.title}\n\nNot drawn: {self.reason}\n")]
        paths = [write_atomic(folder / f"{self.name}.{kind}", self.render(kind)) for kind in _DATES]
        paths.append(write_atomic(folder / f"{self.name}.csv", self.csv()))
        return [*paths, write_atomic(folder / f"{self.name}.txt", f"{self.title}\n\n{self.caption}\n")]


def context(
    groups: Iterable[Configuration],
    machines: Machines,
    seeds_drawn: str = "mean, with a band from the smallest to the largest",
) -> str:
    """The last sentences of every caption: data, number of seeds, and the machine measured on."""
    groups = list(groups)
    rows = [row for group in groups for row in group.ok]
    sizes = []
    for name, words in (("n_train", "training points"), ("n_test", "test points"), ("n_labels", "labels")):
        if rows[0].get(name) is not None:
            sizes.append(f"{rows[0][name]:,} {words}")
    data = f"Dataset {rows[0]['dataset']}{': ' if sizes else ''}{', '.join(sizes)}."
    return f"{data} {measured(groups, machines, seeds_drawn)}"


def measured(groups: Iterable[Configuration], machines: Machines, seeds_drawn: str) -> str:
    """Number of seeds, and the machines: environments on the same machine are named together."""
    groups = [group for group in groups if group.ok]
    rows = [row for group in groups for row in group.ok]
    counts = sorted({len(group.ok) for group in groups})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    spread = "n = 1 seed." if counts == [1] else f"n = {n} {repeats(rows)}: {seeds_drawn}."
    ids: dict[str, list[str]] = {}
    for env_id in sorted({row["env_id"] for row in rows if row["env_id"]}):
        machine = machines.get(env_id)
        gpu = on_gpu(row for row in rows if row["env_id"] == env_id)
        ids.setdefault(machine.words(gpu) if machine else "", []).append(env_id)
    where = ""
    for words, names in ids.items():
        environments = f"nvironment{'s' * (len(names) > 1)} {', '.join(names)}"
        where += f" Machine: {words} (e{environments})." if words else f" E{environments}, whose record is missing."
    return f"{spread}{where}"


def trace(groups: Iterable[Configuration], of_failed: bool = False) -> dict[str, str]:
    """The column ``run_ids`` of a figure's csv: the rows of table.csv that a plotted number comes from."""
    rows = [row for group in groups for row in (group.rows if of_failed else group.ok)]
    return {"run_ids": " ".join(dict.fromkeys(row["run_id"] for row in rows))}
