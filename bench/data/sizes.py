"""The size of a dataset: from its cache where that is built, else from its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.common.errors import InputError
from bench.data import cache
from bench.data.cards import load_card
from bench.data.dataset import cached_meta, resolve_parameters, validation_count
from bench.data.sources import source

NEEDED = ("n_train", "n_test", "n_features", "n_labels", "labels_per_point")
DEFAULT_FEATURES_PER_POINT = 75  # where a card states none: as in Amazon-670K of the XML Repository
STEP = 2**22  # entries per pass


@dataclass(frozen=True)
class DataSizes:
    """Counts of points, features and labels; averages per point are over train."""

    n_train: int
    n_validation: int
    n_test: int
    n_features: int
    n_labels: int
    features_per_point: float
    labels_per_point: float
    features_used: int  # features that occur in train; all of them where the data are not on disk
    known_from: str  # cache or card

    @property
    def n_fit(self) -> int:
        """Points of train that are not held out."""
        return self.n_train - self.n_validation

    def n_evaluated(self, on: str) -> int:
        """Points that are predicted for a run that is evaluated on ``test`` or ``validation``."""
        return self.n_validation if on == "validation" else self.n_test

    def matrix_bytes(self, points: int) -> int:
        """X and Y of so many points as CSR: an id and a value per entry, and 4 bytes per point for each matrix."""
        return round(points * (8 * (self.features_per_point + self.labels_per_point) + 8))


def dataset_sizes(name: str, **overrides: Any) -> DataSizes:
    """Sizes of a dataset with overrides of its parameters. Nothing is built or downloaded.

    Raises InputError for unknown names and parameters, and where neither cache nor card states a size.
    """
    card = load_card(name)
    found = cached_meta(name, **overrides)
    if found is None:
        parameters = resolve_parameters(card, overrides)
        stated: dict[str, Any] = {**card.expected}
        module = source(card.source, card.path)
        if hasattr(module, "sizes"):
            stated |= module.sizes(parameters)
        missing = [key for key in NEEDED if stated.get(key) is None]
        if missing:
            raise InputError(
                f"dataset {card.name}: found no {', '.join(missing)} in {card.path}, key expected; "
                f"expected all of {', '.join(NEEDED)}, or the data on disk (`machbench data fetch {card.name}`)"
            )
        known_from, used = "card", int(stated["n_features"])
    else:
        folder, meta = found
        stated = meta["stats"]
        known_from, used = "cache", _features_used(cache.open_matrices(folder, meta)["train_X"].indices, stated)
    n_train = int(stated["n_train"])
    held_out = overrides.get("validation_points", card.validation_points)
    return DataSizes(
        n_train=n_train,
        n_validation=validation_count(n_train, None if held_out is None else int(held_out)),
        n_test=int(stated["n_test"]),
        n_features=int(stated["n_features"]),
        n_labels=int(stated["n_labels"]),
        features_per_point=float(stated.get("features_per_point") or DEFAULT_FEATURES_PER_POINT),
        labels_per_point=float(stated["labels_per_point"]),
        features_used=used,
        known_from=known_from,
    )


def _features_used(indices: np.ndarray, stats: Mapping[str, float]) -> int:
    if stats["n_features"] > 4 * len(indices) + STEP:  # hashed ids: no array over all of them
        return len(np.unique(indices))
    seen = np.zeros(int(stats["n_features"]), dtype=bool)
    for low in range(0, len(indices), STEP):
        seen[indices[low : low + STEP]] = True
    return int(seen.sum())
