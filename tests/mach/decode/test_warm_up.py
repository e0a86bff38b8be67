"""After `MachOutput.warm_up` ranking compiles nothing more, whichever method it chooses."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import numpy as np, scipy.sparse as sp, torch
from numba.core.dispatcher import Dispatcher
from mach.layer.output import MachOutput

B, estimator = int(sys.argv[1]), sys.argv[2]
K, R, k = 20_000, 9, 10
labels = sp.csr_matrix((10, K), dtype=np.float32)
seeds = {"hashing": 1, "initialisation": 2, "sampling": 3}
layer = MachOutput(n_labels=K, hidden=4, train_labels=labels, seeds=seeds, B=B, R=R, estimator=estimator)


def compiled():
    found = {}
    for name, module in list(sys.modules.items()):
        if name.startswith("mach."):
            of = {f"{name}.{a}": len(v.signatures) for a, v in vars(module).items() if isinstance(v, Dispatcher)}
            found |= of
    return found


with torch.no_grad():
    layer.warm_up(k)
    before = compiled()
    for scale in (0.1, 30.0):  # flat, and peaked
        layer.biases.mul_(0).add_(torch.randn(R, B, generator=torch.Generator().manual_seed(0)) * scale)
        for points in (1, 3, 64, 400):
            layer.topk(torch.rand(R, points, 4), k)
            layer.topk_decoders(torch.rand(R, points, 4), k, range(1, R + 1))
more = {name: count for name, count in compiled().items() if count > before.get(name, 0)}
assert sum(before.values()) > 10, before
assert not more, more
"""


@pytest.mark.parametrize(
    ("B", "estimator"),
    [
        pytest.param(64, "logit_sum+min", marks=pytest.mark.soak),
        (6000, "logit_sum"),
        pytest.param(6000, "min+median", marks=pytest.mark.soak),
        pytest.param(70_000, "log_prob_sum", marks=pytest.mark.soak),
    ],
)
def test_nothing_is_compiled_afterwards(B: int, estimator: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(B), estimator], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
