"""Compare two experiments or two runs: quality with paired tests, cost, settings and environment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.columns import BY_NAME
from bench.common.errors import InputError, unknown_name
from bench.metrics.significance import LEVEL, Paired, holm, paired_bootstrap, t_half_width
from bench.report.groups import SETTINGS, SPLIT, records
from bench.report.selection import readable_rows
from bench.results.per_point import NotAvailable, Points
from bench.results.store import Store
from bench.results.table import rows_to_frame, swept_columns

QUALITY = ("P@1", "P@5", "nDCG@5", "PSP@5")
SIZES = ("params_total", "params_output", "index_bytes")
MEASURED = ("fit_s", "predict_s", "peak_host_bytes", "peak_gpu_allocated_bytes")  # comparable on one machine only
MATCHED = tuple(name for name in SETTINGS if name != "device")  # runs on different devices match


@dataclass(frozen=True)
class Side:
    """One side: the runs' own rows, and the folder of their experiment. ``single``: it was named by its run id."""

    name: str
    folder: Path
    rows: list[dict[str, Any]]
    single: bool


@dataclass(frozen=True)
class Pair:
    """Two matched runs; ``tests`` by metric, or ``untested``: why there are none.

    ``apart``: in what the data or their evaluation differ, so that the numbers are not comparable; "" where they are.
    """

    a: dict[str, Any]
    b: dict[str, Any]
    tests: dict[str, Paired]
    untested: str
    apart: str = ""


def diff(a: str, b: str, results: Path, times: bool) -> tuple[list[str], bool]:
    """Lines that say how B differs from A, and whether some difference is significant.

    Significant: a paired test over points with a Holm-adjusted p below 5 %, over all tests of the call, or a run with a
    result on one side and none on the other. Rows for a smaller R are left out: they come from the run of the
    largest and are correlated with it. Measured cost is compared within one environment, or with ``times``.

    Runs on different data, or evaluated otherwise, are shown side by side, without differences and tests; that counts
    as significant. Raises InputError for unknown names, an experiment beside a run, and nothing to match.
    """
    left, right = _side(a, results), _side(b, results)
    if left.single != right.single:
        raise InputError(f"diff: found an experiment and a run, {a} and {b}; expected two experiments or two runs")
    matched, only = _match(left, right)
    if not matched:
        raise InputError(f"diff: found no run of {a} with method, dataset, settings and seed of one of {b}")
    points = {left.folder: Points(left.folder), right.folder: Points(right.folder)}
    pairs = [_pair(x, y, points[left.folder], points[right.folder]) for x, y in matched]
    keys = [(at, metric) for at, pair in enumerate(pairs) for metric in pair.tests]
    adjusted = dict(zip(keys, holm([pairs[at].tests[metric].p for at, metric in keys]), strict=True))
    lines = [f"A: {left.name}, B: {right.name}; {len(pairs)} matched, {len(only)} on one side only", *only]
    for at, pair in enumerate(pairs):
        lines += ["", *_pair_lines(pair, {m: p for (i, m), p in adjusted.items() if i == at}, times)]
        lines += [f"  {line}" for line in _specs(left.folder, pair.a, right.folder, pair.b)]
    lines += _across_seeds(pairs) + _environments(pairs, left.folder.parent / "env", right.folder.parent / "env")
    found = sum(p < 1 - LEVEL for p in adjusted.values())
    changed = sum((pair.a["status"] == "ok") != (pair.b["status"] == "ok") for pair in pairs)
    apart = sum(bool(pair.apart) for pair in pairs)
    lines += ["", f"{found} of {len(adjusted)} paired tests significant at 5 % (Holm), {changed} changes of status."]
    if apart:
        lines.append(f"{apart} of {len(pairs)} pairs are on different data or evaluated otherwise: not comparable.")
    return lines, bool(found or changed or apart)


def _side(name: str, results: Path) -> Side:
    """An experiment's folder or name, or else a run id."""
    for folder in (results / name, Path(name)):
        if (folder / "table.csv").is_file():
            return Side(name, folder, _own_rows(folder), single=False)
    known: list[str] = []
    for table in sorted(results.glob("*/table.csv")):
        try:
            rows = _own_rows(table.parent)
        except InputError:  # an experiment that nobody asked for
            continue
        found = [row for row in rows if row["run_id"] == name]
        if found:
            return Side(name, table.parent, found, single=True)
        known += [table.parent.name, *(row["run_id"] for row in rows)]
    for ledger in sorted(results.glob("*/ledger.jsonl")):  # also a result that a newer one has replaced
        record = Store(ledger.parent).record(name) if Path(name).name == name else None
        if record is not None:
            frame = rows_to_frame([record.rows(ledger.parent.name)[-1]])
            return Side(name, ledger.parent, [row | {"swept": []} for row in records(frame)], single=True)
    raise unknown_name("experiment or run", name, known, str(results))


def _own_rows(folder: Path) -> list[dict[str, Any]]:
    df = readable_rows(folder)
    swept = [name for name in swept_columns(df) if name.rsplit(".", 1)[1] not in ("B", "R", "seed", "seeds")]
    return [row | {"swept": swept} for row in records(df) if row["derived_from"] is None]


def _match(left: Side, right: Side) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], list[str]]:
    """Pairs of rows, and lines about the runs without a partner. Of several equal runs the last counts."""
    if left.single:
        return [(left.rows[0], right.rows[0])], []
    swept = list(dict.fromkeys(name for side in (left, right) for row in side.rows[:1] for name in row["swept"]))
    names = ("method", "dataset", "seed", "B", "R", *MATCHED, *swept)
    by_key = [{tuple(str(row.get(name)) for name in names): row for row in side.rows} for side in (left, right)]
    both = [key for key in by_key[0] if key in by_key[1]]
    only = [
        f"only in {side}: {row['run_id']}"
        for side, own in zip("AB", by_key, strict=True)
        for key, row in own.items()
        if key not in both
    ]
    return [(by_key[0][key], by_key[1][key]) for key in both], only


def _apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """In what the data of two runs, or their evaluation, differ; "" where they do not."""
    for name, default in (("data_fingerprint", None), ("evaluated_on", "test"), ("evaluation_fingerprint", None)):
        x, y = a.get(name) or default, b.get(name) or default
        if x is not None and y is not None and x != y:  # a run that failed early does not know its data
            return f"{name} {x} → {y}"
    return ""


def _pair(a: dict[str, Any], b: dict[str, Any], of_a: Points, of_b: Points) -> Pair:
    if a["status"] != "ok" or b["status"] != "ok":
        return Pair(a, b, {}, "a run without a result")
    if apart := _apart(a, b):
        return Pair(a, b, {}, f"not comparable, because the points or their evaluation differ: {apart}", apart)
    try:
        x, y = of_a.of(a), of_b.of(b)
    except (NotAvailable, InputError) as reason:
        return Pair(a, b, {}, str(reason))
    return Pair(a, b, {metric: paired_bootstrap(x[metric], y[metric]) for metric in QUALITY}, "")


def _pair_lines(pair: Pair, adjusted: Mapping[str, float], times: bool) -> Iterator[str]:
    a, b = pair.a, pair.b
    yield f"{a['run_id']} → {b['run_id']}" if a["run_id"] != b["run_id"] else f"{a['run_id']} (the same run id)"
    if a["status"] != "ok" or b["status"] != "ok":
        yield f"  status {a['status']} → {b['status']}"
    if pair.untested:
        yield f"  no paired test: {pair.untested}"
    for metric in QUALITY:
        if a[metric] is None or b[metric] is None:
            continue
        line = f"  {metric:7} {100 * a[metric]:6.2f} → {100 * b[metric]:6.2f} %"
        if not pair.apart:
            line += f"  {100 * (b[metric] - a[metric]):+.2f}"
        if metric in pair.tests:
            t, p = pair.tests[metric], adjusted[metric]
            interval = f"[{100 * t.low:+.2f}, {100 * t.high:+.2f}]"
            counts = f"won {t.won}, lost {t.lost}, tied {t.tied} of {t.n} points"
            line += f" {interval}  {counts}; p {t.p:.2g}, Holm {p:.2g}{' *' if p < 1 - LEVEL else ''}"
        yield line
    same_machine = a["env_id"] is not None and a["env_id"] == b["env_id"]
    for name in (*SIZES, *(MEASURED if same_machine or times else ())):
        x, y = a.get(name), b.get(name)
        if x is not None and y is not None and x != y:
            ratio = f" ({y / x:.3g}×)" if x else ""
            yield f"  {name} {BY_NAME[name].show(x)} → {BY_NAME[name].show(y)} {BY_NAME[name].shown_unit}{ratio}"
    if not same_machine and not times:
        where = f"environments {a['env_id']} and {b['env_id']}"
        yield f"  times and memory not compared: measured in {where}; --times compares them nevertheless"


def _across_seeds(pairs: list[Pair]) -> list[str]:
    """Mean difference of each configuration over its seeds, paired by seed."""
    names = ("method", "dataset", "B", "R", *MATCHED, *dict.fromkeys(n for pair in pairs for n in pair.a["swept"]))
    together: dict[tuple[str, ...], list[Pair]] = {}
    for pair in pairs:
        if pair.a["status"] == pair.b["status"] == "ok" and not pair.apart:
            key = tuple(str(pair.a.get(name)) for name in names if name != SPLIT)
            together.setdefault(key, []).append(pair)
    lines = []
    for members in together.values():
        for metric in QUALITY if len(members) > 1 else ():
            gaps = [100 * (pair.b[metric] - pair.a[metric]) for pair in members]
            mean, half = sum(gaps) / len(gaps), t_half_width(gaps)
            first = members[0].a
            what = f"{first['method']} on {first['dataset']}" + (
                f" B={first['B']} R={first['R']}" if first["B"] else ""
            )
            lines.append(f"  {what}: {metric} {mean:+.2f} ± {half:.2f} points (95 % t interval, n {len(gaps)})")
    return ["", "Across seeds, B minus A:", *lines] if lines else []


def _specs(left: Path, a: Mapping[str, Any], right: Path, b: Mapping[str, Any]) -> list[str]:
    """Settings in which the specs of two runs differ."""
    try:
        x, y = (_json(folder / "runs" / row["run_id"] / "spec.json") for folder, row in ((left, a), (right, b)))
    except InputError as error:
        return [f"settings not compared: {error}"]
    if x is None or y is None:
        return ["settings not compared: spec.json is not beside the table"]
    return [f"setting {line}" for line in _changes(x, y)]


def _environments(pairs: list[Pair], left: Path, right: Path) -> list[str]:
    lines: list[str] = []
    for a, b in dict.fromkeys((pair.a["env_id"], pair.b["env_id"]) for pair in pairs):
        x, y = _json(left / f"{a}.json"), _json(right / f"{b}.json")
        if a == b:
            lines.append(f"Environment {a} on both sides.")
        elif x is None or y is None:
            lines.append(f"Environments {a} and {b}: not compared: a file of env/ is missing.")
        else:
            lines += [f"Environment {a} → {b}:", *(f"  {line}" for line in _changes(x, y))]
    return ["", *lines]


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not readable: {error}; expected JSON") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a JSON {type(content).__name__}; expected an object")
    return content


def _changes(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """``key: old → new`` for every key that differs, nested keys dotted."""
    for key in dict.fromkeys([*a, *b]):
        x, y = a.get(key), b.get(key)
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            yield from _changes(x, y, f"{prefix}{key}.")
        elif x != y:
            yield f"{prefix}{key}: {x} → {y}"
