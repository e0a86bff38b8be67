"""``report.html``: one self-contained page about an experiment, built from its results alone."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from bench.columns import STATUS_WORDS
from bench.common.errors import InputError
from bench.common.files import read_json_object, write_atomic
from bench.report.against_best import AgainstBest, against_best
from bench.report.figures import Picture, build_figures
from bench.report.groups import Configuration, grouped, points_of, records
from bench.report.selection import SELECTED, Selection, read_rows, readable_rows
from bench.report.tables import build_tables, further_tables
from bench.report.verdict import QUESTION, verdict
from bench.results.kept_inputs import read_description
from bench.results.left_out.damage import damage_lines

PASSPORT = ("data_fingerprint", "n_train", "n_test", "n_features", "n_labels")


def write_report(
    experiment_dir: Path | str,
    tested: AgainstBest | None = None,
    across_machines: bool = False,
    pictures: Sequence[Picture] | None = None,
    selection: Selection | None = None,
) -> Path:
    """Write ``report.html`` into the experiment folder (``results/quickstart``) and return its path.

    Of a ``selection`` of rows the page goes to the folder ``selected`` in there, and says what it leaves out.

    ``tested``: the tests over points and ``pictures``: the figures, where they are there already.
    ``across_machines``: see `bench.report.machines`.

    The page contains its figures, styles and script and loads nothing from the network. Raises InputError when the
    table or an environment file is broken; what cannot be read of runs is left out, and the page says so.
    """
    folder = Path(experiment_dir)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected results/<experiment>, as `machbench run` leaves it")
    df = read_rows(folder, across_machines, selection)
    groups, rows = grouped(df), records(df)
    runs = [row for row in rows if row["derived_from"] is None]
    environments = _described(folder.parent / "env", [row["env_id"] for row in rows])
    passports = _described(folder.parent / "data", [row["data_fingerprint"] for row in rows])
    experiment = next((row["experiment"] for row in rows), folder.resolve().name)
    named = shlex.quote(experiment) + " --across-machines" * across_machines
    named += f" {selection.options}" if selection else ""
    pictures = build_figures(df, folder / "runs") if pictures is None else pictures
    page = _template().render(
        experiment=experiment,
        description=read_description(folder),
        question=QUESTION,
        answers=_answers(groups),
        runs=len(runs),
        points=points_of(groups),
        failures=[{**row, "words": STATUS_WORDS[row["status"]]} for row in runs if row["status"] != "ok"],
        figures=[_figure(picture, f"machbench figure {named} --only {picture.name}") for picture in pictures],
        tables=[*build_tables(df, tested or against_best(df, folder)), *further_tables(df, folder, selection is None)],
        datasets=_datasets(rows),
        passports=passports,
        environments=environments,
        command=f"machbench report {named}",
        selected=selection.words(readable_rows(folder)) if selection else "",
        damage=damage_lines(folder),
    )
    return write_atomic((folder / SELECTED if selection else folder) / "report.html", page)


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    env = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return env.get_template("report.html.j2")


def _answers(groups: list[Configuration]) -> dict[str, list[str]]:
    datasets = dict.fromkeys(group.dataset for group in groups)
    answers = {name: verdict([g for g in groups if g.dataset == name]) for name in datasets}
    return {name: [_unbroken(sentence) for sentence in sentences] for name, sentences in answers.items()}


def _unbroken(sentence: str) -> str:
    """No line break inside ``R = 4`` or ``88.00 ± 0.20 %``."""
    return re.sub(r" (?=[=±%])|(?<=[=±]) ", "\u00a0", sentence)


def _figure(picture: Picture, command: str) -> dict[str, Any]:
    shown = {
        "name": picture.name,
        "title": picture.title,
        "caption": picture.caption,
        "reason": picture.reason,
        "command": command,
    }
    return shown | {"svg": Markup(inline_svg(picture)) if picture.figure is not None else None}


def inline_svg(picture: Picture) -> str:
    """The picture as an <svg> element for a page with several: ids of its own, a name for screen readers."""
    text = picture.render("svg").decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{picture.name}-\1"', text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\1{picture.name}-", text)
    text = re.sub(r'<svg\b([^>]*?) width="[^"]*"', r"<svg\1", text, count=1)
    text = re.sub(r'<svg\b([^>]*?) height="[^"]*"', r"<svg\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{Markup.escape(picture.title)}"', 1)


def _datasets(rows: list[dict[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Fingerprint and sizes of each dataset according to the rows; two values mean that the data differed."""
    found: dict[str, dict[str, list[Any]]] = {}
    for row in rows:
        passport = found.setdefault(row["dataset"], {name: [] for name in PASSPORT})
        for name in PASSPORT:
            if row[name] is not None and row[name] not in passport[name]:
                passport[name].append(row[name])
    return found


def _described(folder: Path, ids: list[str | None]) -> dict[str, list[tuple[str, str]] | None]:
    """The keys and values of ``<id>.json`` for each id, nested keys dotted; None where the file is missing."""
    found: dict[str, list[tuple[str, str]] | None] = {}
    for name in dict.fromkeys(name for name in ids if name):
        path = folder / f"{name}.json"
        if Path(name).name != name or not path.is_file():
            found[name] = None
            continue
        found[name] = _flat(read_json_object(path))
    return found


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", _said(value)))
    return flat


def _said(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return json.dumps(value, ensure_ascii=False) if value != [] else "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else f"{value:,}"
