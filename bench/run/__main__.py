"""The process of one run. It ends with the process that started it, however that one ends.

    python -m bench.run RUN_DIR     (see `bench.run.execute`; `bench.run.ranks.peer_main` for further processes)

Nothing heavy is imported before that is arranged, so a launcher killed while its child loads torch leaves no orphan.
"""

from __future__ import annotations

import os
import sys

from bench.common.child_processes import DISK_FULL, die_with_parent
from bench.common.files import is_full


def main(path: str) -> int:
    """Execute the run in a folder. Exit status DISK_FULL where not even its failure could be written."""
    die_with_parent()
    from bench.run.ranks.peer_process import RankAddress

    try:
        if address := RankAddress.from_env(os.environ):
            from bench.run.ranks.peer_main import main as execute_peer

            return execute_peer(path, address)
        from bench.run.execute import main as execute

        return execute(path)
    except OSError as error:
        if not is_full(error):
            raise
        return DISK_FULL


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
