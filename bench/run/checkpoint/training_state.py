"""What training goes on from: parameters, optimiser and random states, as named tensors and JSON values."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.model.ensemble import Ensemble
from bench.model.inplace_adam import InPlaceAdam
from bench.model.optim import Optimiser, RowSparseAdam, RowwiseAdagrad, zeros
from bench.run.checkpoint.tensor_file import TensorFile

State = tuple[dict[str, Tensor], dict[str, Any]]
EXTRA = "_extra_state"  # torch's name for what a module's get_extra_state gives


def network_state(network: nn.Module) -> State:
    """Parameters, buffers, and what modules give by ``get_extra_state``; tensors that share memory once."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    seen = set()
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            values[f"network/{name}"] = value
            continue
        memory = (value.data_ptr(), value.shape, value.stride())
        if memory not in seen:
            tensors[f"network/{name}"] = value
            seen.add(memory)
    return tensors, values


def load_network(network: nn.Module, file: TensorFile) -> None:
    """Set a network to what a file has of it. ValueError when it is not a network of the same shape."""
    tensors, values = network_state(network)
    _expect_names(file, "network/", {*tensors, *values})
    for name in (*tensors, *values):
        module, _, last = name.removeprefix("network/").rpartition(".")
        if last == EXTRA:
            network.get_submodule(module).set_extra_state(file.values[name] if name in values else file.read(name))
        else:
            file.read_into(name, tensors[name])


def optimiser_state(optimiser: Optimiser) -> State:
    """Moments, accumulators and counts of steps. Learning rates follow from the settings and the epoch."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for number, part in enumerate(optimiser.parts):
        if isinstance(part, InPlaceAdam):
            values[f"optimiser/{number}/steps"] = part.steps
        for prefix, parameter in _parameters(number, part):
            for key, value in part.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[prefix + key] = value
                else:
                    values[prefix + key] = value
    return tensors, values


def load_optimiser(optimiser: Optimiser, file: TensorFile) -> None:
    """Set an optimiser before its first step to what a file has of it. ValueError when it is of another kind."""
    read: set[str] = set()
    for number, part in enumerate(optimiser.parts):
        if isinstance(part, InPlaceAdam):
            part.go_on_from(file.values[f"optimiser/{number}/steps"])
            read.add(f"optimiser/{number}/steps")
        for prefix, parameter in _parameters(number, part):
            state = part.state[parameter]
            for name in _names(file, prefix):
                key = name.removeprefix(prefix)
                if name in file.values:
                    state[key] = file.values[name]
                else:
                    if key not in state:
                        state[key] = _allocate(part, parameter, file.shape(name), file.dtype(name))
                    file.read_into(name, state[key])
                read.add(name)
    _expect_names(file, "optimiser/", read)


def random_state(device: torch.device) -> State:
    """The process-wide generators, of which the harness uses none but a method may: torch, numpy, Python."""
    tensors = {"random/torch": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state(device)
    legacy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - whoever uses it must find it as it was
    numbers = {**legacy, "state": {**legacy["state"], "key": legacy["state"]["key"].tolist()}}
    return tensors, {"random/numpy": numbers, "random/python": random.getstate()}


def set_random_state(device: torch.device, state: State) -> None:
    """Set the process-wide generators to what `random_state` gave."""
    tensors, values = state
    torch.set_rng_state(tensors["random/torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random/cuda"], device)
    numbers = values["random/numpy"]
    key = np.array(numbers["state"]["key"], dtype=np.uint32)
    np.random.set_state({**numbers, "state": {**numbers["state"], "key": key}})  # noqa: NPY002
    version, internal, gauss = values["random/python"]
    random.setstate((version, tuple(internal), gauss))


def random_state_in(file: TensorFile) -> State:
    """What a file has of `random_state`."""
    return {name: file.read(name) for name in file.names if name.startswith("random/")}, file.values


def tables_digest(ensemble: Ensemble) -> str:
    """SHA-256 of the hash tables: made again from seeds, so a checkpoint keeps this and not the tables."""
    digest = hashlib.sha256()
    bags = [group.network.encoder.bag.lookup for group in ensemble.groups]
    for table in (ensemble.built.lookup, *bags):
        if isinstance(table, np.ndarray):
            digest.update(f"{table.dtype.str} {table.shape} ".encode() + np.ascontiguousarray(table).data)
    return digest.hexdigest()


def _parameters(number: int, part: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    """Each parameter with the beginning of its names."""
    parameters = [parameter for group in part.param_groups for parameter in group["params"]]
    return ((f"optimiser/{number}/{at}/", parameter) for at, parameter in enumerate(parameters))


def _names(file: TensorFile, prefix: str) -> list[str]:
    return [name for name in (*file.names, *file.values) if name.startswith(prefix)]


def _allocate(
    part: torch.optim.Optimizer, parameter: nn.Parameter, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """Memory for a state, of the kind that the optimiser itself allocates."""
    if isinstance(part, RowSparseAdam | RowwiseAdagrad):
        return zeros(parameter, shape)
    return torch.empty(shape, dtype=dtype, device=parameter.device)


def _expect_names(file: TensorFile, prefix: str, expected: set[str]) -> None:
    found = set(_names(file, prefix))
    if found != expected:
        differing = ", ".join(sorted(found ^ expected)[:3])
        raise ValueError(f"{file.path.name}: found {len(found)} states under {prefix}; not on both sides: {differing}")
