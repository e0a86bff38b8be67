"""The cost model against real modules, torch's own count of operations, and the official recipes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mach.theory import collisions
from mach.theory.cost import cost, cost_ratios, full_softmax_cost, parameters

# features, hidden, B, R, labels of the authors' configurations; the last is inferred from its published size
RECIPES = {
    "Wiki10-31K": (101_938, [500, 500], 2_000, 32, 30_938),
    "Delicious-200K": (782_585, [500, 500], 5_000, 32, 205_443),
    "Amazon-670K": (135_909, [500, 500], 10_000, 32, 670_091),
    "Amazon-3M": (100_000, [4096], 10_000, 16, 2_812_281),
    "Amazon search": (80_000, [2_000], 20_000, 32, 49_460_000),
}


def linear_layers(n_features: int, hidden: int | Sequence[int], outputs: int) -> list[torch.nn.Linear]:
    widths = [hidden] if isinstance(hidden, int) else list(hidden)
    return [torch.nn.Linear(a, b) for a, b in itertools.pairwise([n_features, *widths, outputs])]


@pytest.mark.parametrize("hidden", [16, [16], [16, 8], (5, 6, 7)])
def test_parameters_equal_a_real_network(hidden: int | list[int]) -> None:
    n_features, B, R, n_labels = 40, 12, 3, 100
    layers = linear_layers(n_features, hidden, B)
    counted = [R * sum(w.numel() for w in layer.parameters()) for layer in layers]
    found = parameters(n_features, hidden, B, R, n_labels)
    assert found == {
        "params_input": counted[0],
        "params_hidden": sum(counted[1:-1]),
        "params_output": counted[-1],
        "params_total": sum(counted),
        "params_per_repetition": sum(counted) // R,
        "index_bytes": np.zeros((R, n_labels), dtype=np.uint16).nbytes,
    }


def test_parameters_by_hand() -> None:
    """The authors' Wiki10-31K recipe, 32 times 101,938-500-500-2,000, and the widths written out."""
    found = parameters(101_938, [500, 500], 2_000, 32, 30_938)
    assert found["params_per_repetition"] == 50_969_500 + 250_500 + 1_002_000
    assert found["params_output"] == 32 * 1_002_000
    assert found["index_bytes"] == 32 * 30_938 * 2
    assert parameters(1, 1, 2**16, 1, 10)["index_bytes"] == 20
    assert parameters(1, 1, 2**16 + 1, 1, 10)["index_bytes"] == 40


@pytest.mark.parametrize("hidden", [16, [16, 8]])
def test_bytes_equal_real_tensors(hidden: int | list[int]) -> None:
    """Weights, gradients, Adam's moments and the outputs of every layer of R networks after one real step."""
    n_features, B, R, n_labels, batch = 40, 12, 3, 100, 7
    sizes = {"weights_bytes": 0, "gradients_bytes": 0, "adam_bytes": 0, "activations_bytes": 0}
    for _ in range(R):
        layers = linear_layers(n_features, hidden, B)
        weights = [w for layer in layers for w in layer.parameters()]
        adam = torch.optim.Adam(weights)
        values = torch.ones(batch, n_features)
        for layer in layers:
            values = layer(values)
            sizes["activations_bytes"] += 2 * values.nbytes  # and as much for the gradient
        values.sum().backward()
        adam.step()
        sizes["weights_bytes"] += sum(w.nbytes for w in weights)
        sizes["gradients_bytes"] += sum(w.grad.nbytes for w in weights if w.grad is not None)
        sizes["adam_bytes"] += sum(adam.state[w][name].nbytes for w in weights for name in ("exp_avg", "exp_avg_sq"))
    found = cost(n_features, hidden, B, R, n_labels, batch=batch, nnz=n_features)
    assert {name: found[name] for name in sizes} == sizes
    index = np.zeros((R, n_labels), dtype=np.uint16).nbytes
    assert found["train_bytes"] == sum(sizes.values()) + index
    assert found["serve_bytes"] == sizes["weights_bytes"] + index


@pytest.mark.parametrize("hidden", [16, [16, 8]])
def test_flops_equal_torchs_count(hidden: int | list[int]) -> None:
    """Dense input, so that torch counts the first layer as a matrix product; it leaves out biases as we do."""
    n_features, B, R, n_labels, batch = 40, 12, 3, 100, 7
    step = query = 0
    for _ in range(R):
        network = torch.nn.Sequential(*linear_layers(n_features, hidden, B))
        with FlopCounterMode(display=False) as counter:
            network(torch.ones(batch, n_features)).sum().backward()
        step += counter.get_total_flops()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.ones(1, n_features))
        query += counter.get_total_flops()
    found = cost(n_features, hidden, B, R, n_labels, batch=batch, nnz=n_features)
    assert found["train_step_flops"] == step
    assert found["query_flops"] == query
    assert found["query_scan_adds"] == R * n_labels
    assert found["query_operations"] == query + R * n_labels


def test_sparse_input_saves_in_the_first_layer_only() -> None:
    dense, sparse = (cost(1_000, 16, 12, 3, 100, batch=7, nnz=nnz) for nnz in (1_000, 25.5))
    assert dense["train_step_flops"] - sparse["train_step_flops"] == 3 * 7 * 4 * (1_000 - 25.5) * 16
    assert dense["query_flops"] - sparse["query_flops"] == 3 * 2 * (1_000 - 25.5) * 16


def test_full_softmax_is_one_network_with_an_output_for_each_label() -> None:
    full = full_softmax_cost(40, [16, 8], 100, batch=7, nnz=5)
    as_one = cost(40, [16, 8], 100, 1, 100, batch=7, nnz=5)
    scan, index = full.pop("query_scan_adds"), full.pop("index_bytes")
    assert (scan, index) == (0, 0)
    assert full["query_operations"] == as_one["query_operations"] - 100
    assert full["serve_bytes"] == as_one["serve_bytes"] - 200
    for name in ("params_total", "params_output", "weights_bytes", "activations_bytes", "train_step_flops"):
        assert full[name] == as_one[name]


@pytest.mark.parametrize(
    ("dataset", "ratio"),
    [
        ("Wiki10-31K", 25.0),
        ("Delicious-200K", 25.5),
        ("Amazon-670K", 5.8),
        ("Amazon-3M", 0.604),
        ("Amazon search", 0.0646),
    ],
)
def test_official_recipes_against_full_softmax(dataset: str, ratio: float) -> None:
    """Parameters of the authors' settings over those of one full softmax on the same trunk, to three digits."""
    found = cost_ratios(*RECIPES[dataset], batch=1, nnz=1)["params_total"]
    assert float(f"{found:.3g}") == ratio


def test_amazon_search_holds_the_published_parameters() -> None:
    """6.4 billion (Medini et al. 2019): exactly so without biases."""
    found = parameters(*RECIPES["Amazon search"])
    biases = 32 * (2_000 + 20_000)
    assert found["params_total"] - biases == 6_400_000_000


def test_ratios_divide_what_both_have() -> None:
    arguments = {"batch": 1_000, "nnz": 76}
    ratios = cost_ratios(*RECIPES["Amazon-670K"], **arguments)
    features, hidden, B, R, labels = RECIPES["Amazon-670K"]
    ours = cost(features, hidden, B, R, labels, **arguments)
    full = full_softmax_cost(features, hidden, labels, **arguments)
    assert set(ours) - set(ratios) == {"index_bytes", "query_scan_adds"}
    assert all(ratios[name] == ours[name] / full[name] for name in ratios)


def test_theory_offers_the_cost_model() -> None:
    assert collisions.parameters is parameters
    assert collisions.cost is cost
    assert collisions.full_softmax_cost is full_softmax_cost
    assert collisions.cost_ratios is cost_ratios


@pytest.mark.parametrize(
    "call",
    [
        lambda: parameters(0, 8, 4, 2, 10),
        lambda: parameters(10, [], 4, 2, 10),
        lambda: parameters(10, [8, 0], 4, 2, 10),
        lambda: parameters(10, 8, 4, 0, 10),
        lambda: cost(10, 8, 4, 2, 10, batch=0, nnz=1),
        lambda: cost(10, 8, 4, 2, 10, batch=1, nnz=-1),
        lambda: cost(10, 8, 4, 2, 10, batch=1, nnz=11),
        lambda: full_softmax_cost(10, 8, 0, batch=1, nnz=1),
        lambda: cost_ratios(10, 8, 0, 2, 10, batch=1, nnz=1),
    ],
)
def test_arguments_out_of_range(call: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()  # type: ignore[operator]
