"""A picture with its caption and the numbers in it; or the reason why there is none."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from bench.figures.style import DPI, RC
from bench.files import write_atomic
from bench.summary import Group, repeat, repeats

_DATES = {"png": {"Software": None}, "pdf": {"CreationDate": None, "ModDate": None}, "svg": {"Date": None}}


@dataclass(frozen=True)
class Picture:
    """``rows``: the plotted numbers, one dict a point. ``reason``: why nothing was drawn (no ``figure``)."""

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
            self.figure.savefig(out, format=kind, dpi=DPI, bbox_inches="tight", metadata=_DATES[kind])
        return out.getvalue()

    def csv(self) -> str:
        """The plotted numbers; a value that a point does not have is empty."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([["" if row.get(n) is None else row[n] for n in names] for row in self.rows])
        return out.getvalue()

    def write(self, folder: Path) -> list[Path]:
        """Write .png, .pdf, .svg, .csv and the caption as .txt; undrawn, only the .txt with the reason."""
        if self.figure is None:
            return [write_atomic(folder / f"{self.name}.txt", f"{self.title}\n\nNot drawn: {self.reason}\n")]
        paths = [write_atomic(folder / f"{self.name}.{kind}", self.render(kind)) for kind in _DATES]
        paths.append(write_atomic(folder / f"{self.name}.csv", self.csv()))
        return [*paths, write_atomic(folder / f"{self.name}.txt", f"{self.title}\n\n{self.caption}\n")]


def context(groups: Iterable[Group], seeds_drawn: str = "mean, with a band from the smallest to the largest") -> str:
    """The last sentences of every caption: data, number of seeds, and the environment measured in."""
    rows = [row for group in groups for row in group.ok]
    first = rows[0]
    told = []
    for name, words in (("n_train", "training points"), ("n_test", "test points"), ("n_labels", "labels")):
        if first.get(name) is not None:
            told.append(f"{first[name]:,} {words}")
    seeds, over = len({repeat(row) for row in rows}), repeats(rows)
    envs = sorted({row["env_id"] for row in rows if row["env_id"]})
    spread = "n = 1 seed." if seeds == 1 else f"n = {seeds} {over}: {seeds_drawn}."
    where = f" Environment {', '.join(envs)}." if envs else ""
    return f"Dataset {first['dataset']}{': ' if told else ''}{', '.join(told)}. {spread}{where}"
