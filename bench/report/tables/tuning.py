"""The table ``tuning``: the trials of each method and the settings that were chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.common.errors import InputError
from bench.common.text_table import Cell, Head, Table
from bench.config.yaml_files import read_yaml
from bench.results.kept_inputs import CHOSEN

HEADS = [
    Head("dataset", "dataset", number=False),
    Head("method", "method", number=False),
    Head("trials", "trials"),
    Head("trials_ok", "ok"),
    Head("trial", "chosen"),
    Head("metric", "metric", number=False),
    Head("best", "best", "%"),
    Head("default", "default", "%"),
    Head("settings", "chosen settings", number=False),
]


def tuning_table(folder: Path) -> Table | None:
    """The table ``tuning`` of an experiment's results, or None where nothing was tuned.

    Raises InputError when chosen.yaml is not what `write_chosen` writes.
    """
    path = folder / CHOSEN
    if not path.is_file():
        return None
    tuned: Any = read_yaml(path).get("tuned")
    try:
        metric = tuned["metric"]
        rows = [_row(entry, metric) for entry in tuned["methods"]]
        budget = f"At most {tuned['trials']} trials per method, seed {tuned['seed']}; fewer where it has fewer settings"
        title = f"Tuning of {tuned['experiment']}"
    except (KeyError, TypeError, AttributeError) as error:
        expected = "what `machbench run` writes; run the experiment again to write it anew"
        raise InputError(f"{path}, key tuned: found {type(error).__name__}: {error}; expected {expected}") from error
    notes = [
        ("", f"{metric} on the validation points, per cent: the best trial of each method, and trial 0, its defaults."),
        ("", f"{budget}. The test points were not used for the choice."),
    ]
    return Table("tuning", title, HEADS, rows, notes)


def _row(entry: Mapping[str, Any], metric: str) -> list[Cell]:
    parameters = entry.get("parameters") or {}
    dataset = " ".join([entry["dataset"], *(f"{name}={value}" for name, value in parameters.items())])
    settings = "; ".join(f"{name} {value}" for name, value in entry["settings"].items())
    words = settings if entry["validation"] else "defaults, because no trial has a result"
    return [
        Cell(dataset, dataset),
        Cell(entry["method"], entry["method"]),
        *(Cell(str(entry[name]), entry[name]) for name in ("trials", "trials_ok", "trial")),
        Cell(metric, metric),
        *(_quality(entry[name], metric) for name in ("validation", "default_validation")),
        Cell(words or "nothing to tune", words),
    ]


def _quality(values: Mapping[str, float] | None, metric: str) -> Cell:
    return Cell() if values is None else Cell(f"{100 * values[metric]:.2f}", values[metric])
