"""The sources of data, one module each. To add one: a module with the names of `Source`, and a line in `SOURCES`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from bench.common.errors import unknown_name
from bench.data.cache import CacheWriter

Progress = Callable[[str], None]


class Source(Protocol):
    """A module that can build a dataset. ``VERSION`` rises when the same parameters give other data.

    Optional: ``sizes(parameters)``, the counts and averages of the data, where the parameters determine them.
    """

    VERSION: int
    DEFAULTS: Mapping[str, Any]

    def identity(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the data depend on besides the parameters: package versions, hashes of input files."""

    def build(self, parameters: Mapping[str, Any], out: CacheWriter, progress: Progress) -> None:
        """Append all points to ``out`` and declare its shape."""


SOURCES = {
    "icd10cm": "bench.data.sources.icd10cm",
    "moby": "bench.data.sources.moby",
    "wordnet": "bench.data.sources.wordnet",
    "gene-pubmed": "bench.data.sources.gene_pubmed",
    "synthetic": "bench.data.sources.synthetic",
    "files": "bench.data.sources.files",
}


def source(name: str, where: str) -> Source:
    """The source module called ``name``; InputError with the nearest name when there is none."""
    if name not in SOURCES:
        raise unknown_name("data source", name, SOURCES, where=where)
    return cast(Source, importlib.import_module(SOURCES[name]))
