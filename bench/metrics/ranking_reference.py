"""The metrics as plain loops over points, for the tests; meant to be read beside docs/metrics.md."""

from __future__ import annotations

import math
from collections.abc import Sequence


def evaluate_reference(
    ranked: Sequence[Sequence[int]],
    true: Sequence[set[int]],
    inverse_propensity: Sequence[float] | None = None,
    *,
    ks: Sequence[int] = (1, 3, 5),
) -> dict[str, float]:
    """What `bench.metrics.evaluate` returns, from ranked ids (-1: none) and each point's labels."""
    n_points = len(true)
    values: dict[str, float] = {}
    for k in ks:
        precision = ndcg = recall = min_precision = reached = best = 0.0
        for predictions, labels in zip(ranked, true, strict=True):
            right = [rank for rank, label in enumerate(predictions[:k], start=1) if label in labels]
            if inverse_propensity is not None:
                reached += sum(inverse_propensity[predictions[rank - 1]] for rank in right)
                best += sum(sorted((inverse_propensity[label] for label in labels), reverse=True)[:k])
            if not labels:
                continue
            precision += len(right) / k
            recall += len(right) / len(labels)
            min_precision += len(right) / min(k, len(labels))
            ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(labels)) + 1))
            ndcg += sum(1 / math.log2(rank + 1) for rank in right) / ideal
        values[f"P@{k}"] = precision / n_points
        values[f"nDCG@{k}"] = ndcg / n_points
        if inverse_propensity is not None:
            values[f"PSP@{k}"] = reached / best if best else 0.0
        values[f"R@{k}"] = recall / n_points
        values[f"minP@{k}"] = min_precision / n_points
    return values


def inverse_propensity_reference(train: Sequence[set[int]], n_labels: int, A: float, B: float) -> list[float]:
    """1/p of each label by the formula of `bench.metrics.ranking.inverse_propensity`, a label at a time."""
    scale = (math.log(len(train)) - 1) * (B + 1) ** A
    return [1 + scale * (sum(label in labels for labels in train) + B) ** -A for label in range(n_labels)]


def by_label_reference(
    ranked: Sequence[Sequence[int]], true: Sequence[set[int]], bin_of: Sequence[int], n_bins: int, k: int
) -> tuple[list[float], list[float]]:
    """P@k and R@k of each bin as `bench.metrics.by_frequency.by_label` has them, a prediction at a time; NaN for no
    pair."""
    right, pairs = [0] * n_bins, [0] * n_bins
    for predictions, labels in zip(ranked, true, strict=True):
        for label in predictions[:k]:
            if label in labels:
                right[bin_of[label]] += 1
        for label in labels:
            pairs[bin_of[label]] += 1
    precision = [count / k / len(true) for count in right]
    return precision, [count / of if of else math.nan for count, of in zip(right, pairs, strict=True)]


def decile_reference(counts: Sequence[int]) -> list[int]:
    """The bins of `bench.metrics.by_frequency.decile_of_labels`: pairs are dealt out one by one, rarest label first,
    two cards a pair, so that the middle of a label's pairs is a card."""
    order = sorted(range(len(counts)), key=lambda label: (counts[label], label))
    dealt = [label for label in order for _ in range(2 * counts[label])]
    middle = [dealt.index(label) + count if count else 0 for label, count in enumerate(counts)]
    return [1 + 10 * at // len(dealt) if count else 0 for at, count in zip(middle, counts, strict=True)]
