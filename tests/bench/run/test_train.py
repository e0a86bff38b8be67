from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from bench.common import procfs
from bench.config.spec import TrainSettings
from bench.data import Split
from bench.model.ensemble import Ensemble
from bench.model.network import Encoder, Network
from bench.model.optim import Optimiser
from bench.run import memory
from bench.run.clock import Clock
from bench.run.outcome import classify
from bench.run.train import Diverged, EpochWatch, batches, train

CPU = torch.device("cpu")


class Layer(nn.Module):
    """A tiny layer that remembers the batches it saw."""

    def __init__(self, n_labels: int = 6, hidden: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, n_labels)
        self.seen: list[int] = []

    def loss(self, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        self.seen.append(labels.shape[0])
        return (self.linear(hidden) - torch.from_numpy(labels.toarray())).square().mean()

    def topk(self, hidden: Tensor, k: int) -> tuple[Any, Any]:
        scores, labels = self.linear(hidden).topk(k)
        return scores.numpy(), labels.numpy().astype(np.int32)


class Watch(EpochWatch):
    """Calls a function after each epoch."""

    def __init__(self, after_epoch: Callable[[int, float], None]) -> None:
        self._after_epoch = after_epoch

    def after_epoch(self, optimiser: Optimiser, epoch: int, mean_loss: float) -> None:
        del optimiser
        self._after_epoch(epoch, mean_loss)


def points(n: int = 50) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    X = sp.random(n, 12, 0.4, format="csr", random_state=0, dtype=np.float32)
    Y = sp.random(n, 6, 0.3, format="csr", random_state=1, dtype=np.float32)
    return X, Y


def network() -> Network:
    torch.manual_seed(0)
    return Network(Encoder(12, [4], [0]), Layer())


def test_batches_shuffle_rows_and_use_every_one() -> None:
    first, again, second = (list(batches(103, 10, seed=4, epoch=e)) for e in (1, 1, 2))
    assert [len(rows) for rows in first] == [10] * 10 + [3]
    assert sorted(np.concatenate(first).tolist()) == list(range(103))
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(again))
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()
    assert np.concatenate(first).tolist() != list(range(103))


def test_training_lowers_the_loss_and_reports_each_epoch() -> None:
    events: list[tuple[int, float]] = []
    net, settings = network(), TrainSettings(epochs=30, batch_size=8, lr=0.05)
    train(net, Split(*points()), settings, 0, Clock(CPU), Watch(lambda epoch, loss: events.append((epoch, loss))))
    assert [epoch for epoch, _ in events] == list(range(1, 31))
    assert events[-1][1] < 0.5 * events[0][1]
    assert net.output.seen[:7] == [8] * 6 + [2]


def test_the_clock_stands_still_during_evaluation() -> None:
    clock = Clock(CPU)
    started = time.perf_counter()
    train(
        network(), Split(*points()), TrainSettings(epochs=3, batch_size=50), 0, clock, Watch(lambda *_: time.sleep(0.2))
    )
    assert clock.seconds < time.perf_counter() - started - 0.6
    before = clock.seconds
    clock.pause()  # a paused clock stays paused
    assert clock.seconds == before > 0


def test_a_loss_that_is_no_number_ends_the_run_with_its_epoch() -> None:
    net = network()
    with torch.no_grad():
        net.output.linear.bias.fill_(torch.nan)
    with pytest.raises(Diverged, match=r"loss nan in epoch 1; last finite mean loss nan"):
        train(net, Split(*points()), TrainSettings(epochs=2), 0, Clock(CPU))


def test_linear_schedule_ends_near_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    factors: list[float] = []
    monkeypatch.setattr("bench.model.optim.Optimiser.scale_lr", lambda _, factor: factors.append(factor))
    train(network(), Split(*points()), TrainSettings(epochs=2, batch_size=10), 0, Clock(CPU))
    np.testing.assert_allclose(factors, 1 - np.arange(10) / 10)


def test_a_warm_up_leaves_the_weights_alone() -> None:
    layer, settings = Layer(), TrainSettings(hidden="4", top_k=3)
    ensemble = Ensemble(layer, 12, settings, 0, CPU)
    before = [p.detach().clone() for p in ensemble.groups[0].network.parameters()]
    ensemble.warm_up(*points())
    for old, new in zip(before, ensemble.groups[0].network.parameters(), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0)
        assert new.grad is None


@pytest.mark.parametrize(("n_points", "sizes"), [(40, [16, 8]), (32, [16]), (9, [9])])
def test_a_warm_up_for_a_gpu_has_batches_of_all_sizes(n_points: int, sizes: list[int]) -> None:
    seen: list[int] = []

    class Seeing(Layer):
        def loss(self, hidden: torch.Tensor, labels: sp.csr_matrix) -> torch.Tensor:
            seen.append(len(hidden))
            return super().loss(hidden, labels)

    X, Y = points()
    for device, expected in ((CPU, sizes[:1]), (torch.device("cuda"), sizes)):
        ensemble = Ensemble(Seeing(), 12, TrainSettings(hidden="4", top_k=3, batch_size=16), 0, CPU)
        ensemble.device = device
        seen.clear()
        ensemble.warm_up(X[:n_points], Y[:n_points])
        assert seen == expected


def test_memory_is_reported_in_bytes() -> None:
    peak, now = memory.peak_host_bytes(), procfs.host_bytes()
    assert peak is not None
    assert now is not None
    assert 10 * 2**20 < now <= peak
    block = np.ones(64 * 2**20 // 8)
    assert procfs.host_bytes() > now + 32 * 2**20  # type: ignore[operator]
    del block
    assert memory.gpu_peaks(CPU) == {"peak_gpu_allocated_bytes": None, "peak_gpu_reserved_bytes": None}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), "oom_host"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), "oom_host"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "oom_device"),
        (Diverged("loss nan in epoch 2"), "diverged"),
        (NotImplementedError("no BCE here"), "unsupported"),
        (KeyError("x"), "crashed"),
    ],
)
def test_every_failure_has_its_word(error: Exception, status: str) -> None:
    found, reason = classify(error)
    assert found == status
    assert reason
