"""Decoding on a device against the CPU's reference: chunked torch anywhere, the kernel where there is a GPU.

test_gpu_kernel.py has the kernel in Triton's interpreter and its compilation, which need no GPU.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mach.decode.gpu.api import top_k_prefixes_device
from mach.decode.gpu.chunked import top_k_chunked
from mach.decode.gpu.keys import empty_entries, pack, unpack
from mach.decode.reference import top_k_reference
from mach.hashing.families import hash_labels
from mach.kernels.excluded import Excluded
from mach.speed.decode_gpu import K, decode_gpu, variants

Table = npt.NDArray[np.uint16] | npt.NDArray[np.int32]
Found = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a CUDA device")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def plainly(
    scores: npt.NDArray[np.float32],
    lookup: Table,
    k: int,
    prefixes: list[int],
    combine: str,
    excluded: Excluded | None = None,
) -> Found:
    """A score for every label of a point, then a stable sort."""
    if combine == "sum" or excluded is not None:
        return top_k_reference(scores, lookup, k, prefixes, combine, excluded)
    found = np.full((len(prefixes), len(scores), k), -np.inf, dtype=np.float32)
    labels = np.full(found.shape, -1, dtype=np.int32)
    kept = min(k, lookup.shape[1])
    of_label = np.stack([scores[:, r, lookup[r]] for r in range(len(lookup))])
    for p, R in enumerate(prefixes):
        total = of_label[:R].min(0) if combine == "min" else np.median(of_label[:R], axis=0)
        best = np.argsort(-total, axis=1, kind="stable")[:, :kept]
        found[p, :, :kept], labels[p, :, :kept] = np.take_along_axis(total, best, axis=1), best
    return found, labels


def on_device(table: Table, device: str = "cpu") -> Tensor:
    return torch.from_numpy(table.view(np.int16) if table.dtype == np.uint16 else table).to(device)


def assert_same(found: tuple[Tensor, Tensor], expected: Found) -> None:
    np.testing.assert_array_equal(found[1].cpu().numpy(), expected[1])
    np.testing.assert_array_equal(found[0].cpu().numpy(), expected[0])
    assert found[0].dtype == torch.float32
    assert found[1].dtype == torch.int32


@settings(max_examples=120, deadline=None)
@given(
    n_points=st.integers(1, 40),
    n_labels=st.sampled_from([1, 2, 5, 63, 300]),
    B=st.integers(1, 12),
    R=st.integers(1, 6),
    k=st.integers(1, 8),
    levels=st.sampled_from([1, 2, 1000]),
    combine=st.sampled_from(["sum", "min", "median"]),
    wide=st.booleans(),
    cells=st.sampled_from([1, 100, 1000, 2**22]),
    share=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    seed=st.integers(0, 1000),
)
def test_chunks_equal_reference(
    n_points: int,
    n_labels: int,
    B: int,
    R: int,
    k: int,
    levels: int,
    combine: str,
    wide: bool,
    cells: int,
    share: float,
    seed: int,
) -> None:
    """Random and heavily tied scores, fewer labels than k, one bucket, any chunk: scores and ids bit for bit.

    share: of pairs that may not be ranked.
    """
    rng = np.random.default_rng(seed)
    shape = (n_points, R, B)
    scores = (rng.integers(-levels, levels, size=shape) / rng.choice([-7, 7], size=shape)).astype(np.float32)  # −0 too
    lookup = hash_labels(n_labels, B, R, seed=seed)
    table = on_device(lookup.astype(np.int32) if wide else lookup)
    prefixes = sorted(set(rng.integers(1, R + 1, size=R).tolist()))
    excluded = Excluded.of(sp.csr_matrix(rng.random((n_points, n_labels)) < share), n_points, n_labels)
    found = top_k_chunked(torch.from_numpy(scores), table, k, prefixes, combine, excluded, cells=cells)
    assert_same(found, plainly(scores, lookup, k, prefixes, combine, excluded if share else None))


def test_tables_of_many_buckets() -> None:
    """Ids from 32,768 on are negative when their uint16 is viewed as int16; from 65,536 on the table is int32."""
    rng = np.random.default_rng(0)
    for B in (2**16, 2**16 + 1):
        scores = rng.normal(size=(3, 2, B)).astype(np.float32)
        lookup = hash_labels(500, B, 2)
        assert (lookup > 2**15).any()
        assert lookup.dtype == (np.uint16 if B == 2**16 else np.int32)
        found = top_k_prefixes_device(torch.from_numpy(scores), on_device(lookup), 5, [1, 2])
        assert_same(found, plainly(scores, lookup, 5, [1, 2], "sum"))
        if lookup.dtype == np.uint16:
            as_uint16 = top_k_prefixes_device(torch.from_numpy(scores), torch.from_numpy(lookup), 5, [1, 2])
            assert_same(as_uint16, plainly(scores, lookup, 5, [1, 2], "sum"))


def test_nothing_of_size_points_times_labels_exists() -> None:
    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            made = func(*args, **(kwargs or {}))
            for tensor in made if isinstance(made, (tuple, list)) else [made]:
                if isinstance(tensor, Tensor):
                    self.largest = max(self.largest, tensor.numel())
            return made

    n_points, n_labels, R, k, cells = 50, 4000, 4, 5, 1000
    for combine in ("sum", "min", "median"):
        scores, table = torch.rand(n_points, R, 6), on_device(hash_labels(n_labels, 6, R))
        with Sizes() as sizes:
            top_k_chunked(scores, table, k, [R], combine, Excluded.of(None, n_points, n_labels), cells=cells)
        assert cells <= sizes.largest <= max(cells, scores.numel()) + n_points * k


def test_no_points_and_no_labels() -> None:
    scores, table = torch.zeros(4, 2, 3), torch.zeros(2, 5, dtype=torch.int32)
    assert top_k_prefixes_device(scores[:0], table, 2, [1, 2])[1].shape == (2, 0, 2)
    found, labels = top_k_prefixes_device(scores, table[:, :0], 2, [1, 2])
    assert (labels == -1).all()
    assert (found == -torch.inf).all()


@given(
    st.lists(
        st.tuples(st.floats(width=32, allow_nan=False), st.integers(0, 2**31 - 2)), min_size=1, unique_by=lambda p: p[1]
    )
)
def test_keys_sort_as_rankings_do(pairs: list[tuple[float, int]]) -> None:
    """By score downwards, then by label upwards, −0 equal to +0; packing loses nothing; empty entries come last."""
    scores = torch.tensor([score for score, _ in pairs], dtype=torch.float32)
    labels = torch.tensor([label for _, label in pairs], dtype=torch.int32)
    keys = pack(scores, labels)
    expected = sorted(range(len(pairs)), key=lambda i: (-float(scores[i]), int(labels[i])))
    assert keys.argsort(descending=True).tolist() == expected
    back = unpack(keys)
    assert torch.equal(back[0], scores)
    assert torch.equal(back[1], labels)
    entries = empty_entries(3, torch.device("cpu"))
    assert entries.max() < keys.min()
    assert len(set(entries.tolist())) == 3
    assert [t.tolist() for t in unpack(entries)] == [[-np.inf] * 3, [-1] * 3]


def test_arguments_that_do_not_fit_are_refused() -> None:
    scores, table = torch.zeros(2, 3, 4), torch.zeros(3, 9, dtype=torch.int16)
    for arguments, message in [
        ((scores, table[:2], 1, [1]), "do not fit"),
        ((scores, table, 0, [1]), "k must be"),
        ((scores, table, 1, [3, 2]), "prefixes must ascend"),
        ((scores, table, 1, [4]), "prefixes must ascend within 1..3"),
        ((scores, table + 4, 1, [1]), "names bucket 4"),
        ((scores, table - 1, 1, [1]), "names bucket 65535"),
        ((scores, (table - 1).int(), 1, [1]), "names bucket -1"),
        ((scores.double(), table, 1, [1]), "float64"),
        ((scores, table.long(), 1, [1]), "int64"),
        ((scores, table, 1, [1], "max"), "unknown combine 'max'"),
        ((scores, table, 1, [1], "sum", "cuda"), "unknown method 'cuda'"),
        ((scores, table, 1, [1], "median", "triton"), "method='torch' for the median"),
        ((scores, table, 129, [1], "sum", "triton"), "at most 128 labels"),
        ((scores.to("meta"), table, 1, [1]), "on meta, but lookup on cpu"),
    ]:
        with pytest.raises(ValueError, match=message):
            top_k_prefixes_device(*arguments)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_numbers_are_refused(bad: float) -> None:
    scores = torch.zeros(2, 1, 3)
    scores[1, 0, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        top_k_prefixes_device(scores, torch.zeros(1, 4, dtype=torch.int16), 2, [1])


@needs_triton
def test_the_kernel_refuses_tensors_of_the_host() -> None:
    with pytest.raises(ValueError, match="CUDA device"):
        top_k_prefixes_device(torch.zeros(2, 1, 3), torch.zeros(1, 4, dtype=torch.int16), 2, [1], method="triton")


@needs_no_gpu
def test_the_measurement_says_that_it_needs_a_gpu() -> None:
    with pytest.raises(NotImplementedError, match="CUDA device"):
        decode_gpu()


def test_the_measured_reference_finds_the_raised_labels() -> None:
    reference, kernel = variants("cpu", 4, 3000).values()
    scores, labels = reference()
    assert scores.shape == labels.shape == (4, K)
    assert (scores > -6.0 * 32).all()  # the background's expectation
    with pytest.raises((ValueError, ModuleNotFoundError), match=r"CUDA device|triton"):
        kernel()


@needs_gpu
@needs_triton
@pytest.mark.parametrize("combine", ["sum", "min"])
@pytest.mark.parametrize(
    ("n_points", "n_labels", "B", "R", "k"),
    [(40, 200_003, 500, 12, 5), (33, 50_000, 70_000, 3, 100), (1, 5_000, 7, 2, 128), (64, 3, 1, 1, 5)],
)
def test_kernel_and_chunks_on_a_gpu_equal_the_cpu(
    n_points: int, n_labels: int, B: int, R: int, k: int, combine: str
) -> None:
    """Larger, with ties in plenty (few levels), several splits and every prefix."""
    rng = np.random.default_rng(n_labels)
    scores = (rng.integers(-9, 9, size=(n_points, R, B)) / 7).astype(np.float32)
    lookup = hash_labels(n_labels, B, R, seed=1)
    prefixes = list(range(1, R + 1))
    expected = plainly(scores, lookup, k, prefixes, combine)
    there, table = torch.from_numpy(scores).cuda(), on_device(lookup, "cuda")
    best = expected[1][-1, :, : k // 2]
    pairs = np.arange(0, best.size + 1, k // 2), np.sort(best, 1).ravel()
    excluded = Excluded.of(pairs, n_points, n_labels) if (best >= 0).all() else None
    without = plainly(scores, lookup, k, prefixes, combine, excluded)
    for method in ("triton", "torch", "auto"):
        assert_same(top_k_prefixes_device(there, table, k, prefixes, combine, method), expected)
        assert_same(top_k_prefixes_device(there, table, k, prefixes, combine, method, excluded), without)


@needs_gpu
@needs_triton
def test_the_measured_variants_agree() -> None:
    first, second = (variant() for variant in decode_gpu().values())
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(first[0], second[0])
