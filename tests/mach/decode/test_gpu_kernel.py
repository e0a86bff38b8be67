"""The Triton kernel without a GPU: run in Triton's interpreter, and compiled for several GPUs.

Both are needed, as what the interpreter runs the compiler may refuse. Each is done in a process of its own, since the
interpreter is switched on for a process before it imports triton.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse as sp

from mach.decode.decoder import top_k_prefixes
from mach.hashing.families import hash_labels

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

ROOT = Path(__file__).resolve().parents[3]


class Case(NamedTuple):
    n_points: int
    n_labels: int
    B: int
    R: int
    k: int
    levels: int  # scores are this many sevenths, so few levels make many ties
    splits: int  # 0: as many as the launch chooses
    prefixes: list[int]
    combine: str = "sum"
    wide: bool = False  # an int32 table
    share: float = 0.0  # of pairs that may not be ranked, for two points of three


CASES = {
    "ties": Case(3, 300, 7, 3, 4, 2, 3, [1, 2, 3]),
    "all_equal": Case(2, 200, 5, 2, 3, 1, 3, [2]),
    "one_of_each": Case(1, 1, 1, 1, 1, 5, 1, [1]),
    "fewer_labels_than_k": Case(2, 3, 4, 2, 5, 3, 1, [1, 2]),
    "labels_end_within_a_tile": Case(4, 65, 9, 2, 3, 1000, 2, [2]),
    "two_blocks_of_points": Case(33, 130, 6, 2, 2, 1000, 2, [2]),
    "one_block_filled": Case(32, 64, 6, 2, 2, 1000, 1, [2]),
    "all_prefixes": Case(5, 400, 16, 6, 3, 1000, 4, [1, 2, 3, 4, 5, 6]),
    "prefixes_short_of_R": Case(3, 100, 8, 5, 3, 1000, 1, [2, 4]),
    "more_splits_than_tiles": Case(3, 150, 8, 2, 3, 1000, 50, [2]),
    "k_not_a_power_of_two": Case(2, 200, 40, 2, 6, 1000, 2, [1, 2]),
    "splits_chosen": Case(2, 5000, 40, 2, 3, 1000, 0, [1, 2]),
    "large_k": Case(2, 300, 40, 2, 128, 1000, 2, [2]),
    "wide_table": Case(3, 200, 40, 3, 4, 1000, 2, [1, 3], wide=True),
    "ids_of_the_upper_half": Case(2, 150, 65_536, 2, 3, 1000, 2, [2]),
    "min": Case(4, 200, 9, 4, 4, 5, 2, [1, 3, 4], "min"),
    "min_ties_wide": Case(2, 100, 3, 2, 4, 1, 2, [1, 2], "min", wide=True),
    "some_excluded": Case(33, 150, 8, 2, 3, 1000, 2, [1, 2], share=0.3),
    "ties_excluded": Case(4, 300, 7, 3, 4, 2, 3, [1, 3], share=0.6),
    "nearly_all_excluded": Case(4, 200, 9, 2, 5, 1000, 2, [2], "min", share=0.98),
    "all_excluded": Case(3, 130, 9, 2, 5, 1000, 2, [2], share=1.0),
}

INTERPRETED = """
import json, sys
import numpy as np
import torch
from mach.decode.gpu.api import top_k_prefixes_device
from mach.decode.gpu.kernel import top_k_triton
from mach.kernels.excluded import Excluded

folder = sys.argv[1]
for name, (k, prefixes, combine, splits) in json.load(open(f"{folder}/cases.json")).items():
    with np.load(f"{folder}/{name}.npz") as case:
        scores, lookup = torch.from_numpy(case["scores"]), torch.from_numpy(case["lookup"])
        pairs = case["indptr"], case["indices"]
    excluded = Excluded.of(pairs, len(scores), lookup.shape[1])
    if splits:
        found, labels = top_k_triton(scores, lookup, k, prefixes, combine, excluded, splits=splits)
    else:
        found, labels = top_k_prefixes_device(scores, lookup, k, prefixes, combine, "triton", excluded)
    np.savez(f"{folder}/{name}.found.npz", scores=found.numpy(), labels=labels.numpy())
"""

COMPILED = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from mach.decode.gpu.kernel import POINTS, TILE, WARPS, scan

table, minimum, k, capability, ones = sys.argv[1], sys.argv[2] == "min", *(int(word) for word in sys.argv[3:])
constants = {"K": k, "POINTS": POINTS, "TILE": TILE, "MINIMUM": minimum}
types = {"table": "*fp32", "lookup": f"*{table}", "ends": "*i32", "keys": "*i64", "thresholds": "*fp32"}
types |= {"bounds": "*i64", "forbidden": "*i32"}
if ones:  # the launcher makes constants of arguments that are 1
    constants |= {name: 1 for name in ("n_labels", "B", "n_splits", "n_blocks", "n_prefixes")}
signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in scan.arg_names}
aligned = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(scan.arg_names) if name in types}
source = triton.compiler.ASTSource(fn=scan, signature=signature, constexprs=constants, attrs=aligned)
options = {"num_warps": WARPS, "num_stages": 1, "enable_fp_fusion": False}
kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
assert len(kernel.asm["cubin"]) > 0
print(kernel.asm["ptx"])
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        | {"PYTHONPATH": path}
        | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the inputs and what the interpreter makes of them, all cases in one process."""
    folder = tmp_path_factory.mktemp("interpreted")
    for seed, (name, case) in enumerate(CASES.items()):
        rng = np.random.default_rng(seed)
        shape = (case.n_points, case.R, case.B)
        scores = rng.integers(-case.levels, case.levels, size=shape) / rng.choice([-7, 7], size=shape)  # −0 too
        lookup = hash_labels(case.n_labels, case.B, case.R, seed=seed)
        table = lookup.astype(np.int32) if case.wide else lookup.view(np.int16)
        chosen = rng.random((case.n_points, case.n_labels)) < case.share
        chosen[::3] = False
        pairs = sp.csr_matrix(chosen)
        arrays = {"indptr": pairs.indptr, "indices": pairs.indices}
        np.savez(folder / f"{name}.npz", scores=scores.astype(np.float32), lookup=table, **arrays)
    requests = {name: (case.k, case.prefixes, case.combine, case.splits) for name, case in CASES.items()}
    (folder / "cases.json").write_text(json.dumps(requests))
    run(INTERPRETED, str(folder), TRITON_INTERPRET="1")
    return folder


@pytest.mark.parametrize("name", CASES)
def test_kernel_equals_reference(name: str, interpreted: Path) -> None:
    """Scores and ids bit for bit."""
    case = CASES[name]
    with np.load(interpreted / f"{name}.npz") as inputs, np.load(interpreted / f"{name}.found.npz") as found:
        lookup = inputs["lookup"] if case.wide else inputs["lookup"].view(np.uint16)
        for p, R in enumerate(case.prefixes):
            scores, repetitions = inputs["scores"][:, :R], lookup[:R]
            if case.combine == "min":  # a repetition whose buckets are the labels holds the minima: nothing is added
                scores = np.stack([scores[:, r, repetitions[r]] for r in range(R)]).min(0)[:, None]
                repetitions = np.arange(case.n_labels, dtype=np.int32)[None]
            ask = {"method": "reference", "excluded": (inputs["indptr"], inputs["indices"])}
            expected = top_k_prefixes(scores, repetitions, case.k, [len(repetitions)], **ask)
            np.testing.assert_array_equal(found["labels"][p], expected[1][0])
            np.testing.assert_array_equal(found["scores"][p], expected[0][0])


@pytest.mark.parametrize(
    ("table", "combine", "k", "capability", "ones"),
    [("u16", "sum", 8, 80, 0), ("u16", "sum", 8, 90, 0), ("u16", "sum", 1, 90, 1), ("i32", "min", 128, 90, 0)],
)
def test_kernel_compiles(table: str, combine: str, k: int, capability: int, ones: int, tmp_path: Path) -> None:
    """For Ampere (8.0) and Hopper (9.0): gathers of 16 bytes a thread, additions as the reference rounds them."""
    ptx = run(COMPILED, table, combine, str(k), str(capability), str(ones), TRITON_CACHE_DIR=str(tmp_path))
    assert "ld.global.v4.b32" in ptx
    assert "fma." not in ptx
    assert ".ftz" not in ptx
    assert ("add.rn.f32" in ptx or "add.f32" in ptx) == (combine == "sum")


def test_splits_fill_the_device_within_bounds() -> None:
    from mach.decode.gpu.kernel import LABELS_PER_SPLIT, PROGRAMS_PER_PROCESSOR, SCRATCH_BYTES, splits_to_fill

    assert splits_to_fill(100, 10**7, 2, 5, 2048) * 2 == PROGRAMS_PER_PROCESSOR * 100
    assert splits_to_fill(100, 10**7, 10**6, 5, 2**40) == 1
    assert splits_to_fill(100, 10 * LABELS_PER_SPLIT, 1, 5, 2048) == 10
    assert splits_to_fill(100, 5, 1, 5, 2048) == 1
    assert splits_to_fill(100, 10**7, 2, 5, SCRATCH_BYTES // 3) == 3
