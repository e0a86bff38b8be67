"""What of a dataset decides the metrics of a ranking (`bench.config.evaluation_inputs`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.config.evaluation_inputs import EvaluationInputs
from bench.data.cards import load_card
from bench.data.dataset import Dataset, cached_meta, filter_path, validation_count
from bench.data.sources.files import file_sha256

POINTS = ("test", "validation")


def evaluation_inputs(data: Dataset, on: str) -> EvaluationInputs:
    """The inputs of a loaded dataset, evaluated on ``test`` or ``validation`` points."""
    return _inputs(data.fingerprint, data.folder, data.propensity, len(data.validation_rows), on)


def cached_evaluation_inputs(name: str, on: str, **overrides: Any) -> EvaluationInputs | None:
    """The same from the cache, without touching the arrays; None when the cache is not built.

    Raises InputError for unknown names and parameters.
    """
    found = cached_meta(name, **overrides)
    if found is None:
        return None
    folder, meta = found
    card = load_card(name)
    held_out = validation_count(
        int(meta["stats"]["n_train"]), overrides.get("validation_points", card.validation_points)
    )
    return _inputs(meta["fingerprint"][:16], folder, card.propensity, held_out, on)


def _inputs(
    fingerprint: str, folder: Path, propensity: tuple[float, float], held_out: int, on: str
) -> EvaluationInputs:
    pairs = filter_path(folder, "train" if on == "validation" else "test")
    return EvaluationInputs(
        data=fingerprint,
        points=on,
        held_out=held_out if on == "validation" else 0,
        A=propensity[0],
        B=propensity[1],
        filter=file_sha256(pairs)[:16] if pairs.is_file() else None,
    )
