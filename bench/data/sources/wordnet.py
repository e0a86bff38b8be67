"""Source `wordnet`: a synset (its lemmas and gloss) -> the synsets it is linked to.

From WordNet 3.0 (Princeton; BSD-like licence) in Debian's package `wordnet-base`. A label is a synset,
named by part of speech and offset (``n00001740``); every pointer counts, whatever its kind. Features are
words of the gloss, words of the lemmas, lemmas of several words and the part of speech. Train holds 80 %
of the synsets that have a link, by a hash of the name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.common.errors import DataError
from bench.data.cache import CacheWriter
from bench.data.sources import Progress
from bench.data.sources.debian import package_files
from bench.data.sources.tf_idf import in_test, words, write_tf_idf

VERSION = 1
DEFAULTS: Mapping[str, Any] = {"deb": None}  # path of the Debian package, when neither installed nor downloadable
PACKAGE = "wordnet-base"
PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}


def identity(parameters: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG001
    """The package; where it was found does not matter."""
    return {"package": f"{PACKAGE} 3.0", "deb": None}


def build(parameters: Mapping[str, Any], out: CacheWriter, progress: Progress) -> None:
    """Read the four data files, write both splits."""
    inner = [f"/usr/share/wordnet/data.{part}" for part in PARTS]
    paths = package_files(PACKAGE, inner, parameters["deb"], progress)
    points = []
    for path, part in zip(paths, PARTS.values(), strict=True):
        progress(f"reading {path.name}")
        for name, features, links in _synsets(path, part):
            if links:
                points.append((in_test(name), features, links))
    write_tf_idf(points, out)


def _synsets(path: Path, part: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """(name, features, names of linked synsets) of each line; the layout is wndb(5WN)."""
    for number, line in enumerate(path.read_text(encoding="latin-1").splitlines(), 1):
        if line.startswith("  "):
            continue  # licence text
        head, _, gloss = line.partition("|")
        try:
            fields = head.split()
            n_lemmas = int(fields[3], 16)
            lemmas = fields[4 : 4 + 2 * n_lemmas : 2]
            start = 5 + 2 * n_lemmas
            links = [fields[at + 2] + fields[at + 1] for at in range(start, start + 4 * int(fields[start - 1]), 4)]
        except (IndexError, ValueError):
            raise DataError(path, number, repr(line[:60]), "a synset as wndb(5WN) describes it") from None
        features = [f"g:{word}" for word in words(gloss)] + [f"p:{part}"]
        for lemma in lemmas:
            tokens = words(lemma)
            features += [f"l:{token}" for token in tokens]
            if len(tokens) > 1:
                features.append("l:" + "_".join(tokens))
        yield part + fields[0], features, links
