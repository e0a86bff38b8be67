"""Read predictions made elsewhere as ranked labels: scipy ``.npz``, plain ``.npz`` arrays, or text pairs.

The result is scores and labels [N, k], best first, label -1 and score -inf where a point has fewer than k predictions.

A file that states a ranking keeps it: where the scores of a point never rise along its row, the row is in *rank order*
and stays as it is, equal scores included, since scores that were rounded or saturated may tie where the ranking did
not. Other rows are sorted by score, equal scores by the lower label. The entries of a sparse matrix by rising column
are no ranking; the same rule sorts them by score, equal scores by the lower label. Zero and negative scores are
ordinary scores.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import DataError, InputError
from bench.data.formats.npz import compressed, matrix_format, matrix_shape, read_arrays, wrong_array
from bench.data.formats.streams import line_blocks
from bench.data.formats.xmlrepo import Bad, whole

Scores = NDArray[np.float64]
Labels = NDArray[np.int64]
_NPZ = "in .npz a scipy CSR matrix, or arrays labels and scores"


def read_scores(path: Path, n_points: int, n_labels: int) -> tuple[Scores, Labels]:
    """Scores and labels [n_points, k] of a prediction file.

    Raises InputError when there is no such file, DataError for another number of points, a label out of
    range or given twice for a point, or a score that is NaN.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"score file {path} does not exist")
    with path.open("rb") as file:
        magic = file.read(6)
    if magic == b"\x93NUMPY":
        raise DataError(path, None, "one array (.npy)", _NPZ)
    if magic[:4] == b"PK\x03\x04" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if all(name.endswith(".npy") for name in archive.namelist()):
                return _from_npz(path, n_points, n_labels)
    return _from_text(path, n_points, n_labels)


def _from_npz(path: Path, n_points: int, n_labels: int) -> tuple[Scores, Labels]:
    parts = read_arrays(path, "arrays in .npz, without pickled objects")
    if {"indptr", "indices", "data", "shape"} <= set(parts):
        return _from_csr(path, parts, n_points, n_labels)
    if "labels" in parts:
        labels = parts["labels"]
        scores = parts.get("scores", -np.arange(labels.shape[-1] if labels.ndim else 0, dtype=np.float64))
        if labels.ndim != 2 or labels.dtype.kind not in "iu":
            raise wrong_array(path, "labels", f"shape {labels.shape} {labels.dtype}", "whole numbers [N, k]")
        if int(labels.max(initial=0)) >= n_labels:  # before a conversion, in which large ids turn negative
            raise wrong_array(path, "labels", _largest(labels), f"labels from 0 to {n_labels - 1}, or -1 for none")
        if scores.dtype.kind not in "biuf":
            raise wrong_array(path, "scores", f"shape {scores.shape} {scores.dtype}", "real numbers")
        try:
            scores = np.array(np.broadcast_to(scores, labels.shape), dtype=np.float64)
        except ValueError:
            raise wrong_array(path, "scores", f"shape {scores.shape}", f"{labels.shape}, as labels") from None
        return _ranked(path, labels.astype(np.int64), scores, n_points, n_labels)
    raise DataError(path, None, f"arrays {', '.join(sorted(parts))}", _NPZ)


def _largest(labels: NDArray[np.integer[Any]]) -> str:
    point, position = np.unravel_index(int(labels.argmax()), labels.shape)
    return f"label {labels[point, position]} at point {point}"


def _from_csr(path: Path, parts: dict[str, Any], n_points: int, n_labels: int) -> tuple[Scores, Labels]:
    kind, shape = matrix_format(path, parts), matrix_shape(path, parts)
    if kind != "csr":
        raise wrong_array(path, "format", repr(kind), "csr, which keeps the order of a row")
    if shape != (n_points, n_labels):
        raise wrong_array(path, "shape", f"a matrix of {shape}", f"({n_points}, {n_labels}): points and labels")
    indptr, indices, data = compressed(path, parts, n_points, n_labels)
    counts = np.diff(indptr)
    k = int(counts.max(initial=0))
    rows = np.repeat(np.arange(n_points), counts)
    position = np.arange(len(indices)) - np.repeat(indptr[:-1], counts)
    labels, scores = np.full((n_points, k), -1, np.int64), np.full((n_points, k), -np.inf)
    labels[rows, position], scores[rows, position] = indices, data
    return _ranked(path, labels, scores, n_points, n_labels)


def _from_text(path: Path, n_points: int, n_labels: int) -> tuple[Scores, Labels]:
    """A line ``label:score label:score`` per point; a header of two counts ``points labels`` may come first. A blank
    line is a point without predictions, a line that begins with `#` is none."""
    rows: list[list[tuple[int, float]]] = []
    number, first = 0, True
    for text in line_blocks(path):
        for raw in text.split(b"\n")[:-1]:
            number += 1
            line = raw.decode("ascii", "replace").removesuffix("\r")
            fields = line.split()
            if fields and fields[0].startswith("#"):
                continue
            begins, first = first, False
            if begins and len(fields) == 2 and all(field.isdigit() for field in fields):
                if [int(field) for field in fields] != [n_points, n_labels]:
                    raise DataError(path, number, repr(line), f"`{n_points} {n_labels}`: points and labels")
                continue
            if len(rows) == n_points:
                if fields:
                    raise DataError(path, number, f"point {n_points + 1}", f"{n_points} points")
                continue
            try:
                rows.append([_pair(token, n_labels) for token in fields])
            except Bad as bad:
                raise DataError(path, number, bad.found, bad.expected) from None
    if len(rows) != n_points:
        raise DataError(path, number, f"the end after {len(rows)} points", f"{n_points} points")
    k = max((len(row) for row in rows), default=0)
    labels, scores = np.full((n_points, k), -1, np.int64), np.full((n_points, k), -np.inf)
    for position, row in enumerate(rows):
        labels[position, : len(row)] = [label for label, _ in row]
        scores[position, : len(row)] = [score for _, score in row]
    return _ranked(path, labels, scores, n_points, n_labels)


def _pair(token: str, n_labels: int) -> tuple[int, float]:
    label, colon, score = token.partition(":")
    try:
        value = float(score) if colon else math.nan
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise Bad(repr(token), "`label:score` with a number as score")
    return whole(label, n_labels, "label"), value


def _ranked(path: Path, labels: Labels, scores: Scores, n_points: int, n_labels: int) -> tuple[Scores, Labels]:
    """Check, and sort by falling score and rising label those rows whose scores rise somewhere."""
    if len(labels) != n_points:
        raise DataError(path, None, f"{len(labels)} points", f"{n_points} points")
    real = labels >= 0
    bad = (labels < -1) | (labels >= n_labels)
    for wrong, what, expected in (
        (bad, "label {label}", f"labels from 0 to {n_labels - 1}, or -1 for none"),
        (real & np.isnan(scores), "score NaN for label {label}", "numbers"),
    ):
        if wrong.any():
            point, position = np.argwhere(wrong)[0].tolist()
            found = what.format(label=labels[point, position]) + f" at point {point}"
            raise DataError(path, None, found, expected)
    scores = np.where(real, scores, -np.inf)
    if labels.shape[1] > 1:
        order = np.argsort(~real, axis=1, kind="stable")  # no prediction: last
        labels, scores = np.take_along_axis(labels, order, 1), np.take_along_axis(scores, order, 1)
        real = np.take_along_axis(real, order, 1)
        mixed = ((scores[:, 1:] > scores[:, :-1]) & real[:, 1:]).any(axis=1)
        order = np.lexsort((labels[mixed], -scores[mixed], ~real[mixed]), axis=1)
        labels[mixed] = np.take_along_axis(labels[mixed], order, 1)
        scores[mixed] = np.take_along_axis(scores[mixed], order, 1)
        by_label = np.sort(labels, axis=1)
        twice = (by_label[:, 1:] == by_label[:, :-1]) & (by_label[:, 1:] >= 0)
        if twice.any():
            point, position = np.argwhere(twice)[0].tolist()
            raise DataError(path, None, f"label {by_label[point, position]} twice at point {point}", "distinct labels")
    return scores, labels
