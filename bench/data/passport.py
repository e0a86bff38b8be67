"""The passport of a dataset, measured once when its cache is built: counts, tail, order, duplicates, label groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

# label groups by number of train points, upper bounds inclusive
GROUPS: tuple[tuple[str, float], ...] = (("unseen", 0), ("tail", 5), ("torso", 100), ("head", np.inf))
SORTED_SHARE = 0.95  # share of neighbours whose lowest labels rise, above which a split counts as sorted
PAIRS = 20_000  # pairs of neighbours that are compared


def statistics(matrices: Mapping[str, csr_matrix]) -> dict[str, float]:
    """Counts and averages in tables and cards; averages are over train, as in the literature."""
    X, Y, test_X, test_Y = (matrices[key] for key in ("train_X", "train_Y", "test_X", "test_Y"))
    _, counts = seen_labels(Y)
    n_train, n_labels = max(X.shape[0], 1), max(Y.shape[1], 1)
    return {
        "n_train": X.shape[0],
        "n_test": test_X.shape[0],
        "n_features": X.shape[1],
        "n_labels": Y.shape[1],
        "labels_per_point": Y.nnz / n_train,
        "features_per_point": X.nnz / n_train,
        "points_per_label": Y.nnz / n_labels,
        "labels_without_train_point": Y.shape[1] - len(counts),
        "share_labels_at_most_5_points": (Y.shape[1] - int((counts > 5).sum())) / n_labels if Y.shape[1] else 0.0,
        "most_frequent_label_points": int(counts.max(initial=0)),
        "train_points_without_label": int((np.diff(Y.indptr) == 0).sum()),
        "train_points_without_feature": int((np.diff(X.indptr) == 0).sum()),
        "test_points_without_label": int((np.diff(test_Y.indptr) == 0).sum()),
        "test_points_without_feature": int((np.diff(test_X.indptr) == 0).sum()),
    }


def passport(matrices: Mapping[str, csr_matrix]) -> dict[str, Any]:
    """Findings beyond the counts, in plain JSON types:

    * ``groups``: for unseen, tail (1 to 5 train points), torso (6 to 100) and head labels, their number
      and their share of the test (point, label) pairs;
    * ``order``: for each split, the share of neighbouring points whose lowest label does not fall, the
      share of neighbours with a label in common beside the same for points half a split apart, and
      whether that looks sorted;
    * ``duplicates``: points of test whose features (and labels) also occur in train, and repeats within
      train. Rows are compared by a 64-bit hash.
    """
    train, test = row_hashes(matrices["train_X"]), row_hashes(matrices["test_X"])
    both = np.uint64(0x9E3779B97F4A7C15)
    train_both = train * both + row_hashes(matrices["train_Y"])
    test_both = test * both + row_hashes(matrices["test_Y"])
    return {
        "groups": _groups(matrices["train_Y"], matrices["test_Y"]),
        "order": {split: _order(matrices[f"{split}_Y"]) for split in ("train", "test")},
        "duplicates": {
            "test_points_with_features_of_a_train_point": int(np.isin(test, train).sum()),
            "test_points_equal_to_a_train_point": int(np.isin(test_both, train_both).sum()),
            "train_points_equal_to_an_earlier_one": len(train_both) - len(np.unique(train_both)),
        },
    }


def passport_lines(found: Mapping[str, Any]) -> list[str]:
    """A passport in words, one finding per line, for `data show` and for reports."""
    lines = ["labels by train points (unseen 0, tail 1 to 5, torso 6 to 100, head more):"]
    for group, _ in GROUPS:
        counts = found["groups"][group]
        share = counts["share_of_test_pairs"]
        lines.append(f"  {group}: {counts['labels']:,} labels, {share:.1%} of the test (point, label) pairs")
    for split in ("train", "test"):
        order = found["order"][split]
        if order["rising"] is not None:
            looks = "looks SORTED: shuffle, never score a prefix" if order["looks_sorted"] else "looks shuffled"
            near, far = order["neighbours_alike"], order["far_points_alike"]
            alike = f"{near:.1%} of neighbours share a label, {far:.1%} of points far apart"
            lines.append(f"order of {split}: {looks} ({alike})")
    lines += [f"{key.replace('_', ' ')}: {count:,}" for key, count in found["duplicates"].items()]
    return lines


def label_counts(Y: csr_matrix) -> NDArray[np.int64]:
    """Points of each label [n_labels]."""
    return np.bincount(Y.indices, minlength=Y.shape[1])


def seen_labels(Y: csr_matrix) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The labels of some point, rising, and the points of each.

    Never an array over all labels when the matrix is much wider than its entries: a header may state any number.
    """
    if Y.shape[1] > 4 * Y.nnz + (1 << 20):
        ids, counts = np.unique(Y.indices, return_counts=True)
        return ids.astype(np.int64), counts.astype(np.int64)
    points = label_counts(Y)
    seen = np.flatnonzero(points)
    return seen, points[seen]


def _groups(train: csr_matrix, test: csr_matrix) -> dict[str, dict[str, Any]]:
    """For each group of labels their number and their share of the test pairs, from the labels that occur."""
    ids, counts = seen_labels(train)
    test_ids, test_counts = seen_labels(test)
    place = np.searchsorted(ids, test_ids)
    known = place < len(ids)
    known[known] = ids[place[known]] == test_ids[known]
    points = np.zeros(len(test_ids), dtype=np.int64)  # train points of each label of test
    points[known] = counts[place[known]]
    sizes = np.bincount(group_of_labels(counts), minlength=len(GROUPS))
    sizes[0] += train.shape[1] - len(ids)
    pairs = np.bincount(group_of_labels(points), weights=test_counts, minlength=len(GROUPS))
    return {
        name: {"labels": int(sizes[at]), "share_of_test_pairs": float(pairs[at] / max(pairs.sum(), 1))}
        for at, (name, _) in enumerate(GROUPS)
    }


def group_of_labels(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The index in `GROUPS` of each label, given its number of train points [n_labels]."""
    return np.searchsorted([above for _, above in GROUPS], counts, side="left").astype(np.int64)


def row_hashes(matrix: csr_matrix, rows_at_once: int = 100_000) -> NDArray[np.uint64]:
    """A 64-bit hash of each row's (column, value) pairs [n]; equal rows have equal hashes."""
    out = np.zeros(matrix.shape[0], dtype=np.uint64)
    for start in range(0, matrix.shape[0], rows_at_once):
        indptr = matrix.indptr[start : start + rows_at_once + 1].astype(np.int64)
        entries = slice(int(indptr[0]), int(indptr[-1]))
        values = np.ascontiguousarray(matrix.data[entries], dtype=np.float32).view(np.uint32)
        mixed = matrix.indices[entries].astype(np.uint64) << np.uint64(32) | values.astype(np.uint64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64's finaliser
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed ^ (mixed >> np.uint64(31)))])
        out[start : start + len(indptr) - 1] = np.diff(sums[indptr - indptr[0]])  # modulo 2^64
    return out


def _order(Y: csr_matrix) -> dict[str, Any]:
    labelled = np.flatnonzero(np.diff(Y.indptr) > 0)
    if len(labelled) < 20:
        return {"rising": None, "neighbours_alike": None, "far_points_alike": None, "looks_sorted": False}
    lowest = Y.indices[Y.indptr[labelled]]
    rising = float((np.diff(lowest) >= 0).mean())
    picks = np.unique(np.linspace(0, len(labelled) - 2, min(PAIRS, len(labelled) - 1)).astype(np.int64))
    near = _alike(Y, labelled[picks], labelled[picks + 1])
    far = _alike(Y, labelled[picks], labelled[(picks + len(labelled) // 2) % len(labelled)])
    looks_sorted = rising >= SORTED_SHARE or near > 2 * far + 0.1
    return {
        "rising": rising,
        "neighbours_alike": near,
        "far_points_alike": far,
        "looks_sorted": bool(looks_sorted),
    }


def _alike(Y: csr_matrix, first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Share of the pairs that have a label in common."""
    return float((np.diff(Y[first].multiply(Y[second]).tocsr().indptr) > 0).mean())
