from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import bench.model.ensemble
from bench.config.spec import TrainSettings
from bench.data import Split
from bench.model import inplace_adam
from bench.model.ensemble import Ensemble
from bench.model.inplace_adam import InPlaceAdam, adam_torch, random_bits, round_stochastic
from bench.model.methods import method_class
from bench.model.optim import Optimiser
from bench.run.clock import Clock
from bench.run.train import EpochWatch, GroupWatch, train_groups

CPU = torch.device("cpu")
SEEDS = {"hashing": 1, "initialisation": 2, "sampling": 3}
TARGETS = {
    "softmax": ("baselines.full_softmax.FullSoftmax", {}),
    "decoupled": ("baselines.full_softmax.FullSoftmax", {"loss": "decoupled"}),
    "bce": ("baselines.one_vs_all.OneVsAll", {}),
}
N, K, H = 24, 90, 5


def labels() -> sp.csr_matrix:
    return sp.csr_matrix((np.random.default_rng(0).random((N, K)) < 0.05).astype(np.float32))


def make(kind: str, **settings: Any) -> Any:
    target, own = TARGETS[kind]
    return method_class(target)(n_labels=K, hidden=H, train_labels=labels(), seeds=SEEDS, **own, **settings)


class Rows(nn.Module):
    """A layer of one parameter whose gradient a test hands over."""

    chunked = ("weight",)

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.update: Any = None


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("label_chunk", [7, 1000])
def test_training_in_place_is_dense_adam(kind: str, label_chunk: int) -> None:
    """Several steps at a falling rate: fused Adam of torch gets the whole gradient of a twin layer."""
    ours, twin = (make(kind, label_chunk=chunk) for chunk in (label_chunk, K))
    reference = torch.optim.Adam(twin.parameters(), lr=0.05, fused=True)
    start = ours.weight.detach().clone()
    with Optimiser(ours, 0.05) as optimiser:
        for step in range(6):
            hidden = torch.randn(N, H, generator=torch.Generator().manual_seed(step))
            optimiser.scale_lr(1 - step / 6)
            reference.param_groups[0]["lr"] = 0.05 * (1 - step / 6)
            optimiser.zero_grad()
            reference.zero_grad()
            for layer in (ours, twin):
                layer.loss(hidden.clone().requires_grad_(), labels()).backward()
            assert ours.weight.grad is None
            optimiser.step()
            reference.step()
    torch.testing.assert_close(ours.weight, twin.weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.bias, twin.bias, rtol=1e-4, atol=1e-4)
    assert (ours.weight - start).abs().max() > 0.05


@settings(max_examples=30, deadline=None)
@given(cuts=st.sets(st.integers(1, 19)), seed=st.integers(0, 99), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_pieces_update_as_the_whole_does_in_plain_torch(cuts: set[int], seed: int, dtype: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours = Rows(torch.randn(20, 70, generator=generator).to(getattr(torch, dtype)))
    weight = ours.weight.detach().clone()
    mean, square = torch.zeros(20, 70), torch.zeros(20, 70)
    optimiser = InPlaceAdam(ours, 0.01, seed=seed)
    bounds = [0, *sorted(cuts), 20]
    for step in range(3):
        gradient = torch.randn(20, 70, generator=generator)
        numbers = inplace_adam._numbers(step + 1, optimiser.param_groups[0])
        adam_torch(weight, mean, square, gradient, inplace_adam.RandomBits(0, optimiser._keys["weight"]), numbers)
        for low, high in itertools.pairwise(bounds):
            ours.update("weight", slice(low, high), gradient[low:high])
        optimiser.step()
    if dtype == "float32":
        torch.testing.assert_close(ours.weight.detach(), weight, rtol=1e-6, atol=1e-6)
    else:  # the same bits; a value that lies a rounding error beside a threshold may go the other way
        assert (ours.weight != weight).float().mean() < 0.01


def test_stochastic_rounding_is_unbiased_and_takes_a_neighbour() -> None:
    """Mean over many places of one value, to five standard errors; a value with 8 bits stays what it is."""
    value = torch.full((200_000,), 1.0 + 0.3 * 2**-7)
    rounded = round_stochastic(value, random_bits(value.shape, 7, 12345, CPU)).float()
    assert set(rounded.tolist()) == {1.0, 1.0 + 2**-7}
    error = 2**-7 * (0.3 * 0.7 / len(value)) ** 0.5
    assert abs(float(rounded.double().mean() - value[0].double())) < 5 * error
    exact = torch.tensor([0.5, -3.0, 0.0, 2.0**-20])
    bits = torch.full((4,), 0xFFFF, dtype=torch.int32)
    torch.testing.assert_close(round_stochastic(exact, bits).float(), exact, rtol=0, atol=0)


def test_random_bits_differ_between_steps_and_do_not_depend_on_the_piece() -> None:
    whole = random_bits(torch.Size([1000]), 0, 5, CPU)
    torch.testing.assert_close(random_bits(torch.Size([400]), 600, 5, CPU), whole[600:], rtol=0, atol=0)
    assert (random_bits(torch.Size([1000]), 0, 6, CPU) != whole).float().mean() > 0.99
    assert abs(float(whole.double().mean()) / 2**16 - 0.5) < 5 / (12 * 1000) ** 0.5


def test_small_updates_are_not_lost_in_bfloat16() -> None:
    """A hundred steps of a thousandth: rounding to the nearest would leave every weight at 1."""
    layer = Rows(torch.ones(50, 200, dtype=torch.bfloat16))
    optimiser = InPlaceAdam(layer, 0.001)
    for _ in range(100):
        layer.update("weight", slice(0, 50), torch.ones(50, 200))
        optimiser.step()
    assert float(layer.weight.detach().double().mean()) == pytest.approx(0.9, abs=0.002)


class Watch(GroupWatch, EpochWatch):
    """Remembers the mean loss of each epoch."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def epochs(self, *_: object) -> EpochWatch:
        return self

    def after_epoch(self, optimiser: Optimiser, epoch: int, mean_loss: float) -> None:
        del optimiser, epoch
        self.losses.append(mean_loss)


@pytest.mark.parametrize("kind", TARGETS)
def test_training_with_weights_in_bfloat16(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss falls about as far as in float32, whatever the chunks, and twice the same way."""
    monkeypatch.setattr(bench.model.ensemble, "has_bf16", lambda _: True)
    X = sp.random(N, 40, 0.3, format="csr", random_state=0, dtype=np.float32)
    losses, weights = [], []
    for arguments in ({"weights": "fp32"}, {"weights": "bf16"}, {"weights": "bf16", "label_chunk": 11}):
        layer = make(kind, **arguments)
        ensemble = Ensemble(layer, 40, TrainSettings(hidden=str(H), epochs=30, batch_size=8, lr=0.05), 0, CPU)
        watch = Watch()
        train_groups(ensemble, Split(X, labels()), Clock(torch.device("cpu")), watch)
        losses.append((watch.losses[0], watch.losses[-1]))
        weights.append(layer.weight.detach().clone())
    (start, full), (_, low), (_, cut) = losses
    assert full < 0.6 * start
    assert abs(low - full) < 0.1 * start
    assert abs(cut - full) < 0.1 * start
    assert weights[1].dtype == torch.bfloat16


def test_the_same_seed_rounds_the_same_way() -> None:
    found = []
    for seed in (3, 3, 4):
        layer = make("bce", weights="bf16")
        with Optimiser(layer, 0.01, seed=seed) as optimiser:
            for step in range(3):
                hidden = torch.randn(N, H, generator=torch.Generator().manual_seed(step), requires_grad=True)
                layer.loss(hidden, labels()).backward()
                optimiser.step()
        found.append(layer.weight.detach().float())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_a_warm_up_leaves_weights_and_layer_alone(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.model.ensemble, "has_bf16", lambda _: True)
    layer = make("softmax", weights=weights)
    ensemble = Ensemble(layer, 40, TrainSettings(hidden=str(H), batch_size=8), 0, CPU)
    before = [p.detach().clone() for p in layer.parameters()]
    ensemble.warm_up(sp.random(N, 40, 0.3, format="csr", random_state=0, dtype=np.float32), labels())
    for old, new in zip(before, layer.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.grad is None
    assert layer.update is None


def test_a_closed_optimiser_leaves_gradients_to_autograd() -> None:
    layer = make("softmax")
    optimiser = Optimiser(layer, 0.01)
    assert layer.update is not None
    with pytest.raises(KeyError), optimiser:
        raise KeyError
    layer.loss(torch.randn(N, H), labels()).backward()
    assert layer.weight.grad is not None


def test_weights_in_bfloat16_need_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.model.ensemble, "has_bf16", lambda _: False)
    with pytest.raises(NotImplementedError, match="weights in bfloat16: this cpu has no bfloat16 instructions"):
        Ensemble(make("softmax", weights="bf16"), 40, TrainSettings(hidden=str(H)), 0, CPU)
