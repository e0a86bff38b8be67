"""Source `icd10cm`: a clinical term -> its ICD-10-CM code and all ancestor codes.

The terms are the titles, inclusion terms and "includes" notes of the US tabular list (NCHS/CMS, public
domain) that the package `simple-icd-10-cm` carries as XML; the package's code is not used. A label is a
code (chapters and sections are none); codes are numbered in alphabetical order. Train holds 80 % of the
terms, by a hash of ``code|term``.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from typing import Any

from bench.data.cache import CacheWriter
from bench.data.sources import Progress
from bench.data.sources.pypi import package_file
from bench.data.sources.tf_idf import in_test, words_and_bigrams, write_tf_idf

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
    points = [(in_test(f"{path[-1]}|{term}"), words_and_bigrams(term), path) for path, term in _points()]
    write_tf_idf(points, out)


def _points() -> Iterator[tuple[tuple[str, ...], str]]:
    """(codes from the outermost to the term's own, term) in document order."""
    for section in ET.fromstring(
        package_file(PACKAGE, PACKAGE_VERSION, f"simple_icd_10_cm/data/{RELEASE}", "icd10cm")
    ).iterfind("chapter/section"):
        yield from _terms(section, ())


def _terms(element: ET.Element, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for diagnosis in element.iterfind("diag"):
        path = (*above, diagnosis.findtext("name", ""))
        for tag in ("desc", "inclusionTerm/note", "includes/note"):
            for term in diagnosis.iterfind(tag):
                yield path, term.text or ""
        yield from _terms(diagnosis, path)
