"""Names that users give to methods, datasets and experiments: checked where they enter, safe as parts of file names."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from bench.common.errors import InputError

LONGEST = 200  # characters of a name
LONGEST_PART = 80  # of a part of a file's name, which may have 255 bytes
_SEPARATES = ("Cc", "Zl", "Zp")  # control characters, line and paragraph separators


def checked_name(name: Any, where: str) -> str:
    """The name. InputError, which starts with ``where``, for one that is no text or empty, would leave its folder, or
    has line ends or other control characters."""
    expected = "expected text in one line, without / and \\, other than . and .."
    if not isinstance(name, str) or not name.strip() or name in (".", ".."):
        raise InputError(f"{where}: found {name!r}; {expected}")
    odd = [c for c in name if c in "/\\" or unicodedata.category(c) in _SEPARATES]
    if odd or len(name) > LONGEST:
        found = f"{odd[0]!r} in {name!r}" if odd else f"{len(name)} characters"
        raise InputError(f"{where}: found {found}; {expected}, of at most {LONGEST} characters")
    return name


def as_file_name(name: str) -> str:
    """The name as a part of a file's name: letters, digits, '.', '_', '+', '=' and '-' stay, all else becomes '_'."""
    safe = re.sub(r"[^A-Za-z0-9._+=-]", "_", name)[:LONGEST_PART]
    return re.sub(r"^[.-]", "_", safe)
