"""Write tables, figures and report of an experiment. A process of its own at the end of `machbench run`.

python -m bench.report.write_all FOLDER [--across-machines]     (FOLDER: results/<experiment>; prints the tables)
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from bench.common.child_processes import die_with_parent
from bench.report.against_best import AgainstBest, against_best
from bench.report.figures import build_figures
from bench.report.html import write_report
from bench.report.selection import read_rows
from bench.report.tables import further_tables, render_table, write_tables
from bench.results.store import Store


def write_readings(folder: Path, across_machines: bool = False) -> tuple[pd.DataFrame, AgainstBest]:
    """Tables, figures and report of an experiment; returns its results and the tests over points.

    A lock keeps other processes from writing at the same time, so that the last one has read all results. Times of
    several machines are left out unless ``across_machines``.
    """
    with Store(folder).writing():
        frame = read_rows(folder, across_machines)
        tested = against_best(frame, folder)
        write_tables(frame, folder / "tables", further_tables(frame, folder), tested)
        pictures = build_figures(frame, folder / "runs")
        for picture in pictures:
            picture.write(folder / "figures")
        write_report(folder, tested, across_machines, pictures)
    return frame, tested


def main(folder: Path, across_machines: bool) -> None:
    """Write everything and print the tables."""
    die_with_parent()
    frame, tested = write_readings(folder, across_machines)
    print(render_table(frame, "md", further_tables(frame, folder), tested))


if __name__ == "__main__":
    from bench.common.exits import ended

    ended(lambda: main(Path(sys.argv[1]), "--across-machines" in sys.argv[2:]))
