"""The record of a run: what `record.json` holds, and the rows of table.csv that come from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.columns import DECODER_SETTING
from bench.common import environment
from bench.config.spec import RunSpec


def ranked_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a record that have predictions: all, or those of fewer repetitions where the run itself failed."""
    rows: list[dict[str, Any]] = record["rows"]
    return rows if record["status"] == "ok" else rows[:-1]


def described(spec: RunSpec, device: str | None = None) -> dict[str, Any]:
    """Identity and settings of a run as columns; known before anything runs, so that failures have them too."""
    return {
        "method": spec.method,
        "dataset": spec.dataset_name,
        "seed": spec.seed,
        "evaluated_on": spec.train.evaluate_on,
        "env_id": environment.env_id(),
        **spec.settings,
        "hidden": spec.train.hidden,
        "epochs": spec.train.epochs,
        "batch_size": spec.train.batch_size,
        "lr": spec.train.lr,
        "decoder": spec.settings.get(DECODER_SETTING),
        "precision": spec.train.precision,
        "device": device,
        **spec.swept,
    }


def record_rows(experiment: str, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table rows of a record: one for each evaluation point; all but the last are marked as derived from it.

    The last is the run's own: the largest R, by the first of its decoders.
    """
    identity = {"experiment": experiment, "status": record["status"], "reason": record.get("reason")}
    run_id = record["run_id"]
    rows = []
    for row in record["rows"]:
        own = row is record["rows"][-1]
        other = f"-{row['decoder']}" if row.get("decoder") != record["rows"][-1].get("decoder") else ""
        name = {"run_id": run_id} if own else {"run_id": f"{run_id}@R{row['R']}{other}", "derived_from": run_id}
        rows.append({**identity, **record["shared"], **row, **name})
    return rows
