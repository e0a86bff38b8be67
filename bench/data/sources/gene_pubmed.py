"""Source `gene-pubmed`: a human gene -> the PubMed articles linked to it (754,859 labels, nearly all of
them tail).

From the SQLite database in Debian's package `r-bioc-org.hs.eg.db` (NCBI Gene, public domain; GO, CC BY
4.0); R is not needed. Features are GO terms, words of the gene's name, Pfam and PROSITE domains,
chromosome and band, and the type of gene; a label is a PubMed id. Train holds 80 % of the genes with an
article, by a hash of the gene's symbol.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.common.errors import DataError
from bench.data.cache import CacheWriter
from bench.data.sources import Progress
from bench.data.sources.debian import package_files
from bench.data.sources.tf_idf import in_test, words, write_tf_idf

VERSION = 1
DEFAULTS: Mapping[str, Any] = {"deb": None}
PACKAGE = "r-bioc-org.hs.eg.db"
INNER = "/usr/lib/R/site-library/org.Hs.eg.db/extdata/org.Hs.eg.sqlite"
# (prefix, table, column): one feature for each distinct value
PROPERTIES = (
    ("go", "go_bp", "go_id"),
    ("go", "go_mf", "go_id"),
    ("go", "go_cc", "go_id"),
    ("pfam", "pfam", "pfam_id"),
    ("prosite", "prosite", "prosite_id"),
    ("chr", "chromosomes", "chromosome"),
    ("band", "cytogenetic_locations", "cytogenetic_location"),
    ("type", "genetype", "gene_type"),
)


def identity(parameters: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG001
    """The package; where it was found does not matter."""
    return {"package": f"{PACKAGE} 3.16.0", "deb": None}


def build(parameters: Mapping[str, Any], out: CacheWriter, progress: Progress) -> None:
    """Read the database, write both splits."""
    (path,) = package_files(PACKAGE, [INNER], parameters["deb"], progress)
    progress(f"reading {path.name}")
    try:
        points = _points(path)
    except sqlite3.Error as error:
        raise DataError(path, None, str(error), f"the database of {PACKAGE} 3.16.0") from None
    write_tf_idf(points, out)


def _points(path: Path) -> list[tuple[bool, list[str], list[str]]]:
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        articles: dict[int, list[str]] = defaultdict(list)
        for gene, article in database.execute("SELECT DISTINCT _id, pubmed_id FROM pubmed"):
            articles[gene].append(article)
        features: dict[int, list[str]] = defaultdict(list)
        for prefix, table, column in PROPERTIES:
            for gene, value in database.execute(f"SELECT DISTINCT _id, {column} FROM {table}"):
                if value:
                    features[gene].append(f"{prefix}:{value}")
        points = []
        for gene, symbol, name in database.execute("SELECT _id, symbol, gene_name FROM gene_info ORDER BY _id"):
            if gene in articles:
                tokens = features[gene] + [f"name:{word}" for word in words(name or "")]
                points.append((in_test(symbol), tokens, articles[gene]))
        return points
    finally:
        database.close()
