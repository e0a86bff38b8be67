"""How a command ends: exit statuses and last messages."""

from __future__ import annotations

import sys
from collections.abc import Callable

from bench.common.errors import InputError
from bench.common.files import is_full


def ended(work: Callable[[], None]) -> None:
    """Do the work. Bad input ends it with one line on standard error and exit status 2, a full disk with status 1."""
    try:
        work()
    except InputError as error:
        print(f"machbench: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if not is_full(error):
            raise
        print(
            f"machbench: {error.filename or 'disk'}: no space left there; what is finished is kept. "
            "Free some space, then the same command goes on from here.",
            file=sys.stderr,
        )
        sys.exit(1)
