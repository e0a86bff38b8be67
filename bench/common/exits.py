"""How a command ends: exit statuses and last lines."""

from __future__ import annotations

import sys
from collections.abc import Callable

from bench.common.errors import InputError
from bench.common.files import is_full


def ended(work: Callable[[], None]) -> None:
    """Do the work; what a user can mend is one line on standard error: bad input with exit status 2, a full disk 1."""
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
            "Make room, then the same command goes on from here.",
            file=sys.stderr,
        )
        sys.exit(1)
