from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

import bench.model.ensemble
from bench.config.spec import TrainSettings, derive_seed
from bench.data import Split, load_dataset
from bench.interface import Ranking
from bench.metrics.scorer import Scorer
from bench.model.ensemble import Ensemble
from bench.model.methods import method_class
from bench.run.clock import Clock
from bench.run.predict import validate
from bench.run.train import train, train_groups
from mach.layer.output import MachOutput, MachSubset

CPU = torch.device("cpu")
N_FEATURES, N_LABELS = 40, 25


def data() -> tuple[sp.csr_matrix, sp.csr_matrix]:
    X = sp.random(60, N_FEATURES, 0.2, format="csr", random_state=0, dtype=np.float32)
    Y = sp.random(60, N_LABELS, 0.2, format="csr", random_state=1, dtype=np.float32)
    return X, Y


def make(R: int = 4, layer: dict[str, Any] | None = None, **train_settings: Any) -> Ensemble:
    seeds = {axis: derive_seed(3, axis) for axis in ("hashing", "initialisation", "sampling")}
    output = method_class("mach.layer.output.MachOutput")(
        n_labels=N_LABELS, hidden=4, train_labels=data()[1], seeds=seeds, B=6, R=R, **(layer or {})
    )
    settings = TrainSettings(hidden="8-4", epochs=3, batch_size=16, lr=0.05, **train_settings)
    return Ensemble(output, N_FEATURES, settings, 3, CPU)


def weights(ensemble: Ensemble) -> list[list[Tensor]]:
    """Every tensor of every repetition, in order of repetitions."""
    found = []
    for group in ensemble.groups:
        encoder, output = group.network.encoder, group.network.output
        bag = encoder.bag
        for g in range(bag.groups):
            if bag.lookup is None:
                table = bag.table.view(N_FEATURES, bag.groups, bag.width)[:, g]
            else:
                table = bag.table.view(bag.groups, bag.n_rows, bag.width)[g]
            deeper = [p[g] for p in (*encoder.weights, *encoder.biases)]
            found.append([table, bag.bias[g], *deeper, output.kernel[g], output.biases[g]])
    return found


def trained(ensemble: Ensemble) -> Ensemble:
    train_groups(ensemble, Split(*data()), Clock(torch.device("cpu")))
    return ensemble


def assert_same(found: list[list[Tensor]], expected: list[list[Tensor]]) -> None:
    assert len(found) == len(expected)
    for mine, right in zip(found, expected, strict=True):
        for a, b in zip(mine, right, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"layer": {"loss": "softmax"}},
    {"optimiser": "rowwise_adagrad"},
    {"layer": {"feature_hash": 9}},
    {"layer": {"feature_hash": 9}, "optimiser": "rowwise_adagrad"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_groups_train_the_same_model(size: int, variant: dict[str, Any]) -> None:
    together = weights(trained(make(**variant)))
    grouped = trained(make(repetitions_at_a_time=size, **variant))
    assert grouped.groups[0].label == f"0-{size - 1}"
    assert_same(weights(grouped), together)
    untrained = weights(make(**variant))
    assert not torch.allclose(untrained[2][0], together[2][0], atol=1e-2)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_another_order_or_fewer_repetitions_train_the_same_model(variant: dict[str, Any]) -> None:
    together = weights(trained(make(**variant)))
    backwards = make(repetitions_at_a_time=1, **variant)
    for group in reversed(backwards.groups):
        order = derive_seed(3, "data order")
        train(group.network, Split(*data()), backwards.settings, order, Clock(CPU))
    assert_same(weights(backwards), together)
    assert_same(weights(trained(make(R=2, **variant))), together[:2])


@pytest.mark.parametrize("free", [10**9, 28_000, 1])
def test_memory_decides_on_groups_but_not_on_the_model(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.model.ensemble, "available_bytes", lambda _: free)
    ensemble = trained(make())
    assert ensemble.group_size == len(ensemble.groups[0].repetitions or [])
    assert (ensemble.group_size == 4) == (free == 10**9)
    assert (ensemble.group_size == 1) == (free == 1)
    monkeypatch.undo()
    assert_same(weights(ensemble), weights(trained(make(repetitions_at_a_time=4))))


def test_hashed_features_are_counted_as_what_they_are() -> None:
    ensemble = make(layer={"feature_hash": 9})
    real = sum(p.numel() for group in ensemble.groups for p in group.network.encoder.bag.parameters())
    assert ensemble.parameters(4)["params_input"] == real == 4 * (9 * 8 + 8)
    assert ensemble.parameters(1)["params_input"] == 9 * 8 + 8
    plain = make().parameters(4)["index_bytes"]
    assert ensemble.parameters(4)["index_bytes"] == plain + 2 * 4 * N_FEATURES  # ids of two bytes


def test_a_shared_encoder_is_one_and_counts_once() -> None:
    ensemble = make(layer={"share_encoder": True})
    (group,) = ensemble.groups
    X, _ = data()
    hidden = group.network.hidden(X)
    assert hidden.shape == (4, 60, 4)
    torch.testing.assert_close(hidden[0], hidden[3], rtol=0, atol=0)
    apart = make()
    assert ensemble.parameters(4)["params_input"] == ensemble.parameters(1)["params_input"]
    assert ensemble.parameters(4)["params_input"] == apart.parameters(1)["params_input"]
    assert ensemble.parameters(3)["params_hidden"] == apart.parameters(1)["params_hidden"]
    assert ensemble.parameters(3)["params_output"] == apart.parameters(3)["params_output"]
    real = sum(p.numel() for p in group.network.parameters())
    assert ensemble.parameters(4)["params_total"] == real
    before = [p.detach().clone() for p in group.network.encoder.parameters()]
    trained(ensemble)
    for old, new in zip(before, group.network.encoder.parameters(), strict=True):
        assert not torch.equal(old, new)
    with torch.no_grad():
        rankings = ensemble.topk(X, ensemble.prefixes, 3)
        so_far = ensemble.topk_so_far(X, group, 3)
    assert len(rankings) == 4
    np.testing.assert_array_equal(rankings[-1][1], so_far[1])


def test_a_shared_encoder_gets_the_gradients_of_all_heads() -> None:
    ensemble = make(layer={"share_encoder": True})
    network = ensemble.groups[0].network
    X, Y = data()
    network.loss(X, Y).backward()
    found = [p.grad for p in (network.encoder.bag.bias, *network.encoder.weights)]
    total = [torch.zeros_like(g) for g in found if g is not None]
    for r in range(4):
        network.zero_grad()
        head = network.output.subset(range(r, r + 1))
        head.loss(network.encoder(X), Y).backward()
        for sum_, p in zip(total, (network.encoder.bag.bias, *network.encoder.weights), strict=True):
            assert p.grad is not None
            sum_ += p.grad
    for mine, right in zip(found, total, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-6)


def test_groups_of_a_shared_encoder_are_not_supported() -> None:
    with pytest.raises(NotImplementedError, match="repetitions_at_a_time: found 2; expected 0 with share_encoder"):
        make(layer={"share_encoder": True}, repetitions_at_a_time=2)


def test_bf16_where_layer_and_hardware_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.model.ensemble, "has_bf16", lambda _: True)
    ensemble = make(precision="bf16")
    assert ensemble.layer.precision == "bf16"
    assert make().layer.precision == "fp32"
    X, Y = data()
    network = ensemble.groups[0].network
    low = network.loss(X, Y)
    ensemble.layer.precision = "fp32"
    assert low.item() == pytest.approx(network.loss(X, Y).item(), rel=0.02)
    assert low.item() != network.loss(X, Y).item()
    monkeypatch.setattr(bench.model.ensemble, "has_bf16", lambda _: False)
    with pytest.raises(NotImplementedError, match="precision bf16: this cpu has no bfloat16 instructions"):
        make(precision="bf16")
    with pytest.raises(NotImplementedError, match="precision bf16: Linear offers fp32 only"):
        Ensemble(torch.nn.Linear(4, 5), N_FEATURES, TrainSettings(hidden="4", precision="bf16"), 0, CPU)


def test_pairs_are_left_out_of_every_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    """All R, all decoders, and what is trained so far: masked by the layer, and dropped from longer rankings."""
    ensemble = make(layer={"estimator": "logit_sum+min"}, repetitions_at_a_time=2)
    X, _ = data()
    left_out = sp.csr_matrix(np.random.default_rng(0).random((60, N_LABELS)) < 0.3)

    def rankings() -> list[Ranking]:
        with torch.no_grad():
            return [
                *ensemble.topk(X, ensemble.prefixes, 5, left_out),
                *ensemble.topk_decoders(X, ensemble.prefixes, 5, left_out),
                ensemble.topk_so_far(X, ensemble.groups[0], 5, left_out),
            ]

    masked = rankings()
    for part in (MachOutput, MachSubset):
        monkeypatch.setattr(part, "takes_excluded", False)
    assert len(masked) == 4 + 8 + 1
    for found, expected in zip(masked, rankings(), strict=True):
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_array_equal(found[0], expected[0])
        assert not left_out.toarray()[np.arange(60)[:, None], found[1]].any()


def test_validation_leaves_pairs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset("tiny")
    rows, labels = dataset.validation_rows, np.asarray(dataset.validation.Y.argmax(1)).ravel()

    class Right:
        """Ranks each point's first label first, where it may."""

        settings = TrainSettings()

        def topk_so_far(self, X: Any, group: Any, k: int, left_out: sp.csr_matrix | None) -> Ranking:
            del X, group
            best = np.full((len(rows), k), -1, dtype=np.int32)
            best[:, 0] = labels if left_out is None else -1
            return np.zeros(best.shape, dtype=np.float32), best

    monkeypatch.setitem(vars(dataset), "train_filter", None)
    assert validate(Right(), None, Scorer(dataset, "validation"))["P@1"] > 0  # type: ignore[arg-type]
    ones = np.ones(len(rows), dtype=np.float32)
    of_train = sp.csr_matrix((ones, (dataset.validation_rows, labels)), shape=dataset.train.Y.shape)
    monkeypatch.setitem(vars(dataset), "train_filter", of_train)
    assert validate(Right(), None, Scorer(dataset, "validation"))["P@1"] == 0  # type: ignore[arg-type]
