"""Exact top-k over all labels on the device that holds the bucket scores; see docs/gpu.md.

The counterpart of `mach.decode.decoder` on a CPU: no array of points × labels exists, and ties go to the lowest label
id. ``triton`` is one kernel that includes the top-k; ``torch`` ranks a chunk of labels at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from mach.decode.gpu.chunked import top_k_chunked
from mach.decode.gpu.keys import LABEL_LIMIT
from mach.kernels.excluded import Excluded
from mach.kernels.triton_device import has_triton

COMBINE = ("sum", "min", "median")
METHODS = ("auto", "triton", "torch")
LARGEST_K = 128  # of the kernel: lists are in registers while labels are inserted, 64 per thread at this k
TABLES = (torch.int16, torch.int32)


def top_k_prefixes_device(
    bucket_scores: Tensor,
    lookup: Tensor,
    k: int,
    prefixes: list[int],
    combine: str = "sum",
    method: str = "auto",
    excluded: Excluded | None = None,
) -> tuple[Tensor, Tensor]:
    """Exact top-k from the first R' repetitions, for every R' in ``prefixes`` (ascending), in one pass.

    bucket_scores float32 [N, R, B]; lookup [R, n_labels] on the same device: int32, or uint16 (which may be viewed as
    int16, as `torch.from_numpy(table.view(numpy.int16))` gives it). Returns (scores float32, labels int32), both
    [len(prefixes), N, k] on that device, best first, ties by lowest label id; with fewer than k labels the others
    are label −1 at score −inf.

    combine: ``sum`` adds repetitions in order in float32 and so equals `mach.decode.decoder.top_k_prefixes` bit for
    bit; ``min`` is the count-min estimate; ``median`` takes the mean of the middle two for an even R'. method:
    ``triton`` (sum and min, CUDA), ``torch`` (any device), ``auto`` the kernel where it can run. excluded: labels that
    each of the N points may not get, on the host. Raises ValueError for shapes, types or devices that do not fit, NaN
    or infinite scores, and unknown names; and ModuleNotFoundError for ``triton`` without the package."""
    if lookup.dtype == torch.uint16:
        lookup = lookup.view(torch.int16)  # torch computes little with uint16
    _check(bucket_scores, lookup, k, prefixes, combine, method)
    if excluded is None:
        excluded = Excluded.of(None, len(bucket_scores), lookup.shape[1])
    empty = bucket_scores.shape[0] == 0 or lookup.shape[1] == 0
    if method == "torch" or empty or (method == "auto" and not _kernel_fits(bucket_scores, k, combine)):
        return top_k_chunked(bucket_scores, lookup, k, prefixes, combine, excluded)
    from mach.decode.gpu.kernel import top_k_triton  # here, because triton is optional

    return top_k_triton(bucket_scores, lookup, k, prefixes, combine, excluded)


def _kernel_fits(bucket_scores: Tensor, k: int, combine: str) -> bool:
    return bucket_scores.is_cuda and has_triton() and k <= LARGEST_K and combine != "median"


def _check(scores: Tensor, lookup: Tensor, k: int, prefixes: list[int], combine: str, method: str) -> None:
    for name, value, known in [("combine", combine, COMBINE), ("method", method, METHODS)]:
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
    if method == "triton" and combine == "median":
        raise ValueError("the kernel combines by sum or min; use method='torch' for the median")
    if scores.ndim != 3 or lookup.ndim != 2 or scores.shape[1] != lookup.shape[0]:
        shapes = f"{tuple(scores.shape)}, {tuple(lookup.shape)}"
        raise ValueError(f"bucket_scores [N, R, B] and lookup [R, n_labels] do not fit: {shapes}")
    if scores.dtype != torch.float32 or lookup.dtype not in TABLES:
        types = f"{scores.dtype}, {lookup.dtype}"
        raise ValueError(f"expected float32 scores and a table in int16 (read as uint16), uint16 or int32, got {types}")
    if scores.device != lookup.device:
        raise ValueError(f"bucket_scores on {scores.device}, but lookup on {lookup.device}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if method == "triton" and k > LARGEST_K:
        raise ValueError(f"the kernel keeps at most {LARGEST_K} labels per point, got k = {k}; use method='torch'")
    if not prefixes or sorted(set(prefixes)) != list(prefixes) or not 1 <= prefixes[0] <= prefixes[-1] <= len(lookup):
        raise ValueError(f"prefixes must ascend within 1..{len(lookup)}, got {prefixes}")
    if lookup.shape[1] > LABEL_LIMIT:
        raise ValueError(f"at most {LABEL_LIMIT:,} labels, got {lookup.shape[1]:,}")
    if lookup.numel():
        lowest, highest = _range(lookup)
        if lowest < 0 or highest >= scores.shape[2]:
            wrong = lowest if lowest < 0 else highest
            raise ValueError(f"lookup names bucket {wrong}, but there are {scores.shape[2]}")
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("bucket_scores hold NaN or infinite values")


def _range(lookup: Tensor) -> tuple[int, int]:
    """Lowest and highest bucket id; no second table is made."""
    lowest, highest = torch.stack(lookup.aminmax()).tolist()
    if lookup.dtype == torch.int32 or lowest >= 0:
        return lowest, highest
    # Ids from 32,768 on: flipping the sign bit makes the order of signed integers that of unsigned ones.
    flipped = torch.stack([torch.stack((row ^ -0x8000).aminmax()) for row in lookup]).to(torch.int32) + 0x8000
    return int(flipped[:, 0].min()), int(flipped[:, 1].max())
