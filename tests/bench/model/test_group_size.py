from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.model.group_size import MARGIN, available_bytes, control_group_bytes, largest_group

NAMES = ("memory.max", "memory.current", "inactive_file")


def control_group(folder: Path, limit: str, use: int, cache: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{use}\n")
    (folder / "memory.stat").write_text(f"anon 7\ninactive_file {cache}\n")
    return folder


def test_a_control_group_leaves_what_its_limit_does(tmp_path: Path) -> None:
    """File cache gives way, so it does not count as used."""
    assert control_group_bytes(control_group(tmp_path, "1000", 700, 100), *NAMES) == 400
    assert control_group_bytes(control_group(tmp_path, "1000", 1200, 0), *NAMES) == 0
    assert control_group_bytes(control_group(tmp_path, "max", 700, 100), *NAMES) is None
    assert control_group_bytes(tmp_path / "none", *NAMES) is None


def test_the_free_memory_of_the_host_is_known() -> None:
    free = available_bytes(torch.device("cpu"))
    assert free is not None
    assert free > 0


@given(
    repetitions=st.integers(1, 64), fixed=st.integers(0, 10**9), each=st.integers(0, 10**8), free=st.integers(0, 10**10)
)
def test_the_group_is_the_largest_that_fits(repetitions: int, fixed: int, each: int, free: int) -> None:
    size = largest_group(repetitions, fixed, each, free)
    assert 1 <= size <= repetitions
    if size > 1:
        assert fixed + size * each <= free * MARGIN
    if size < repetitions:
        assert fixed + (size + 1) * each > free * MARGIN - 1


def test_without_knowledge_all_go_together() -> None:
    assert largest_group(32, 10**12, 10**12, None) == 32


@pytest.mark.parametrize(("free", "size"), [(10_000, 16), (1000, 7), (10, 1)])
def test_sizes_of_groups(free: int, size: int) -> None:
    assert largest_group(16, 100, 100, free) == size
