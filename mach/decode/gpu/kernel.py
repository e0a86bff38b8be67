"""The Triton kernel behind `mach.decode.gpu.api`, and its launch. Importing this needs triton; the design is in
docs/gpu.md.

A program owns a block of POINTS points and a run of labels (a split). The block's bucket scores are [R, B, POINTS] in
memory, so that the line gathered for a label and repetition is one aligned load for all the points. Running totals of a
tile of labels stay in registers while the repetitions of a prefix are added. Then the tile's scores are compared with
the points' thresholds, their k-th best so far; only a tile that has a better label touches the lists of the best k,
which are in scratch memory, one for each split, prefix and point. The lists of the splits are ranked together
afterwards.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from mach.decode.gpu.keys import empty_entries, unpack
from mach.kernels.excluded import Excluded
from mach.kernels.triton_device import device_of

POINTS = 32  # points side by side: their scores of one bucket fill a 128-byte cache line
TILE = 128  # labels whose totals are held at once: 128 × 32 floats, 32 registers in each of 128 threads
WARPS = 4
PROGRAMS_PER_PROCESSOR = 8  # programs wanted for each multiprocessor
LABELS_PER_SPLIT = 1024  # with fewer, filling the lists would take longer than the gathers
SCRATCH_BYTES = 2**30  # lists of all splits; fewer splits are made rather than more bytes


def top_k_triton(
    bucket_scores: Tensor,
    lookup: Tensor,
    k: int,
    prefixes: list[int],
    combine: str,
    excluded: Excluded,
    *,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As `mach.decode.gpu.api.top_k_prefixes_device`, with arguments that were checked there; combine is ``sum``
    or ``min``.

    ``splits`` is the number of runs that the labels are cut into, chosen to fill the device when not given. Raises
    ValueError for tensors that are not on a CUDA device, unless Triton's interpreter is on.
    """
    device, R = bucket_scores.device, prefixes[-1]
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(f"the kernel runs on a CUDA device (or in Triton's interpreter), got tensors on {device}")
    n_points, _, B = bucket_scores.shape
    n_labels, n_blocks, k_padded = lookup.shape[1], triton.cdiv(n_points, POINTS), triton.next_power_of_2(k)
    if splits is None:
        bytes_a_split = 8 * len(prefixes) * n_blocks * POINTS * k_padded
        processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
        splits = splits_to_fill(processors, n_labels, n_blocks, k, bytes_a_split)
    labels_per_split = triton.cdiv(triton.cdiv(n_labels, splits), TILE) * TILE
    splits = triton.cdiv(n_labels, labels_per_split)

    table = torch.nn.functional.pad(bucket_scores[:, :R], (0, 0, 0, 0, 0, n_blocks * POINTS - n_points))
    table = table.view(n_blocks, POINTS, R, B).permute(0, 2, 3, 1).contiguous()
    if lookup.dtype == torch.int16:
        lookup = lookup.view(torch.uint16)
    ends = torch.tensor(prefixes, dtype=torch.int32, device=device)
    entries = torch.full((k_padded,), torch.iinfo(torch.int64).max, device=device)
    entries[:k] = empty_entries(k, device)  # the rest is never the worst of the list, so it is never replaced
    shape = (splits, len(prefixes), n_blocks)
    keys = entries[:, None].expand(*shape, k_padded, POINTS).contiguous()
    thresholds = torch.full((*shape, POINTS), -torch.inf, device=device)
    thresholds.view(*shape[:2], -1)[:, :, n_points:] = torch.inf  # lanes without a point

    lanes = np.zeros((2, n_blocks * POINTS), dtype=np.int64)
    lanes[:, :n_points] = excluded.starts, excluded.stops
    # A pair at least, so that there is something to point at.
    forbidden = torch.from_numpy(np.append(excluded.labels, np.int32(-1))).to(device)
    bounds = torch.from_numpy(lanes).to(device)

    with device_of(bucket_scores):
        scan[(splits * n_blocks,)](
            table,
            lookup.contiguous(),
            ends,
            keys,
            thresholds,
            bounds,
            forbidden,
            n_labels,
            labels_per_split,
            B,
            splits,
            n_blocks,
            len(prefixes),
            excluded.most.bit_length(),
            K=k_padded,
            POINTS=POINTS,
            TILE=TILE,
            MINIMUM=combine == "min",
            num_warps=WARPS,
            num_stages=1,
            enable_fp_fusion=False,
        )
    candidates = keys[:, :, :, :k].permute(1, 2, 4, 0, 3).reshape(len(prefixes), n_blocks * POINTS, splits * k)
    return unpack(candidates[:, :n_points].topk(k, dim=2).values)


def splits_to_fill(processors: int, n_labels: int, n_blocks: int, k: int, bytes_a_split: int) -> int:
    """Splits of the labels that fill the multiprocessors, each with labels enough and the scratch within its bound."""
    wanted = triton.cdiv(PROGRAMS_PER_PROCESSOR * processors, n_blocks)
    worth = n_labels // max(LABELS_PER_SPLIT, 32 * k)
    return max(1, min(wanted, worth, SCRATCH_BYTES // bytes_a_split))


# One kernel for all numbers of points and prefixes, so that none is compiled while predictions are timed.
@triton.jit(do_not_specialize=["n_splits", "n_blocks", "n_prefixes", "halvings"])
def scan(  # type: ignore[no-untyped-def]
    table,  # float32 [blocks, R, B, POINTS]
    lookup,  # uint16 or int32 [at least R, n_labels]
    ends,  # int32 [prefixes]: repetitions of each prefix
    keys,  # int64 [splits, prefixes, blocks, K, POINTS]: the lists, see mach.decode.gpu.keys
    thresholds,  # float32 [splits, prefixes, blocks, POINTS]: score that a label has to beat
    bounds,  # int64 [2, blocks, POINTS]: where a point's labels in forbidden start, and where they stop
    forbidden,  # int32: labels that a point may not get, ascending
    n_labels,
    labels_per_split,
    B,
    n_splits,
    n_blocks,
    n_prefixes,
    halvings,  # steps of a search among the forbidden labels of any point
    K: tl.constexpr,
    POINTS: tl.constexpr,
    TILE: tl.constexpr,
    MINIMUM: tl.constexpr,
):
    """One program: a block of points × a split of the labels. Splits run fastest, so that programs share a table."""
    split = tl.program_id(0) % n_splits
    block = tl.program_id(0) // n_splits
    q = tl.arange(0, POINTS)
    t = tl.arange(0, TILE)
    R = tl.load(ends + n_prefixes - 1)
    first = tl.load(bounds + block * POINTS + q)
    stop = tl.load(bounds + (n_blocks + block) * POINTS + q)
    lines = table + (block.to(tl.int64) * R * B) * POINTS + q[None, :]
    low = split.to(tl.int64) * labels_per_split
    high = tl.minimum(low + labels_per_split, n_labels)
    for tile in range(low, high, TILE):
        inside = tile + t < high
        total = tl.full([TILE, POINTS], float("inf") if MINIMUM else 0.0, tl.float32)
        start = 0
        for p in range(n_prefixes):
            end = tl.load(ends + p)
            for r in range(start, end):
                row = tl.cast(r, tl.int64)
                bucket = tl.load(lookup + row * n_labels + tile + t, mask=inside, other=0).to(tl.int64)
                line = tl.load(lines + (row * B + bucket)[:, None] * POINTS)
                total = tl.minimum(total, line) if MINIMUM else total + line
            start = end
            entry = (split.to(tl.int64) * n_prefixes + p) * n_blocks + block
            lists, bars = keys + entry * K * POINTS, thresholds + entry * POINTS
            _feed(total, inside, tile, lists, bars, first, stop, forbidden, halvings, K, POINTS, TILE)


@triton.jit
def _feed(  # type: ignore[no-untyped-def]
    total,
    inside,
    tile,
    keys,
    thresholds,
    first,
    stop,
    forbidden,
    halvings,
    K: tl.constexpr,
    POINTS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Put a tile's scores [TILE, POINTS] into the lists [K, POINTS], the best of each point first, while one enters.

    A label is searched for among those that its point may not get when it would enter, which few labels do.
    """
    q = tl.arange(0, POINTS)
    places = keys + tl.arange(0, K)[:, None] * POINTS + q[None, :]
    threshold = tl.load(thresholds + q)
    if tl.max((tl.max(total, axis=0) > threshold).to(tl.int32), axis=0) > 0:
        kept = tl.load(places)
        scores = tl.where(inside[:, None], total, float("-inf"))
        best, at = tl.max(scores, axis=0, return_indices=True, return_indices_tie_break_left=True)
        enters = best > threshold
        while tl.max(enters.to(tl.int32), axis=0) > 0:
            may = enters & (_is_forbidden(tile + at, first, stop, forbidden, halvings) == 0)
            worst = tl.min(kept, axis=0)
            replaced = (kept == worst[None, :]) & may[None, :]
            kept = tl.where(replaced, _key(best, tile + at)[None, :], kept)
            threshold = tl.where(may, _score(tl.min(kept, axis=0)), threshold)
            seen = (tl.arange(0, TILE)[:, None] == at[None, :]) & enters[None, :]
            scores = tl.where(seen, float("-inf"), scores)
            best, at = tl.max(scores, axis=0, return_indices=True, return_indices_tie_break_left=True)
            enters = best > threshold
        # A thread reads what another wrote at the last tile: one barrier after all reads, one after all writes.
        tl.debug_barrier()
        tl.store(places, kept)
        tl.store(thresholds + q, threshold)
        tl.debug_barrier()


@triton.jit
def _is_forbidden(label, first, stop, forbidden, halvings):  # type: ignore[no-untyped-def]
    """1 where a point's label is among forbidden[first : stop], by binary search; all [POINTS]."""
    low, high = first, stop
    for _ in range(halvings):
        middle = (low + high) // 2
        smaller = (low < high) & (tl.load(forbidden + middle, mask=low < high, other=0) < label)
        low, high = tl.where(smaller, middle + 1, low), tl.where(smaller, high, middle)
    return ((low < stop) & (tl.load(forbidden + low, mask=low < stop, other=-1) == label)).to(tl.int32)


@triton.jit
def _key(score, label):  # type: ignore[no-untyped-def]
    """`mach.decode.gpu.keys.pack`."""
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - label)


@triton.jit
def _score(key):  # type: ignore[no-untyped-def]
    """The score in a key, −inf of an empty entry."""
    ordered = (key >> 32).to(tl.int32)
    score = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return tl.where(ordered == -0x80000000, float("-inf"), score)
