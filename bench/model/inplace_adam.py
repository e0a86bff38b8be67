"""Adam for parameters whose gradient comes in pieces: rows are updated as soon as their gradient is known."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor, nn

from bench.model.built_method import offset_of
from bench.model.gpu_updates import updates_for
from bench.model.row_kernels import FAST

BLOCK = 512  # bfloat16 weights widened at a time


class InPlaceAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba 2015) of the parameters that a layer lists in its attribute ``chunked``.

    The layer's loss hands over the gradient of some rows at a time, through the function in its attribute ``update``,
    and those rows move at once: the same numbers as ``torch.optim.Adam`` gets from the whole gradient (a test compares
    them), which never exists. All calls between two calls of `step` belong to one step; each row comes once.
    Calls for different rows may come from different threads.

    Weights in bfloat16 have moments in float32, are updated in float32, and rounded to one of the two neighbours with
    probabilities that make the expectation exact (stochastic rounding). The random bits are a function of seed, step
    and position, so neither the chunks nor the threads change the result.
    """

    def __init__(
        self,
        layer: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        seed: int = 0,
    ) -> None:
        self.layer, self.offset = layer, offset_of(layer)
        self.seed, self.steps = seed, 0
        self.parameters: dict[str, nn.Parameter] = {name: layer.get_parameter(name) for name in layer.chunked}
        super().__init__(self.parameters.values(), {"lr": lr, "betas": betas, "eps": eps})
        for parameter in self.parameters.values():
            for moment in ("mean", "square"):
                dtype = torch.float32 if parameter.dtype == torch.bfloat16 else parameter.dtype
                self.state[parameter][moment] = torch.zeros_like(parameter, dtype=dtype)
        self._keys = self._draw_keys()
        layer.update = self.update

    def _draw_keys(self) -> dict[str, int]:
        """Of the random bits of this step, for each parameter."""
        keys = np.random.SeedSequence([self.seed, self.steps]).generate_state(len(self.parameters))
        return dict(zip(self.parameters, keys.tolist(), strict=True))

    @torch.no_grad()
    def update(self, name: str, rows: slice, gradient: Tensor) -> None:
        """Move the rows of a parameter by their gradient [rows, ...]."""
        parameter = self.parameters[name]
        state = self.state[parameter]
        weight, mean, square = (t.detach()[rows] for t in (parameter, state["mean"], state["square"]))
        first = (rows.start + self.offset) * (parameter.numel() // len(parameter))
        numbers = _numbers(self.steps + 1, self.param_groups[0])
        bits = RandomBits(first, self._keys[name])
        if weight.is_cuda or gradient.dtype != torch.float32:
            kernels = updates_for(weight)
            (kernels.adam if kernels else adam_torch)(weight, mean, square, gradient, bits, numbers)
            return
        arrays: Any = [t.reshape(-1).numpy() for t in (mean, square, gradient)]
        single: Any = [np.float32(number) for number in numbers]
        if weight.dtype == torch.bfloat16:
            cells = weight.view(torch.int16).reshape(-1).numpy().view(np.uint16)
            start: Any = (np.uint32(bits.first % 2**32), np.uint32(bits.key))
            _adam_bf16(cells, *arrays, *start, *single)
        else:
            _adam(weight.reshape(-1).numpy(), *arrays, *single)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """The step is over: what is handed over next belongs to another."""
        del closure
        self.go_on_from(self.steps + 1)

    def go_on_from(self, steps: int) -> None:
        """Continue after that many steps: the corrections and the random bits follow from their number."""
        self.steps = steps
        self._keys = self._draw_keys()

    def release(self) -> None:
        """Reset the layer: its gradients go to autograd again."""
        self.layer.update = None


class RandomBits(NamedTuple):
    """Where random bits start: the position of an update's first cell in the whole parameter, and the step's key."""

    first: int
    key: int


class AdamNumbers(NamedTuple):
    """Numbers of a step: length, square root of the second correction, β1, β2, 1 − β1, 1 − β2, ε."""

    rate: float
    correction: float
    b1: float
    b2: float
    c1: float
    c2: float
    eps: float


def _numbers(step: int, group: dict[str, Any]) -> AdamNumbers:
    first, second = group["betas"]
    rate = group["lr"] / (1 - first**step)
    return AdamNumbers(rate, (1 - second**step) ** 0.5, first, second, 1 - first, 1 - second, group["eps"])


def adam_torch(
    weight: Tensor, mean: Tensor, square: Tensor, gradient: Tensor, bits: RandomBits, numbers: AdamNumbers
) -> None:
    """The update in plain torch: for GPUs without triton, and for tests to compare with."""
    rate, correction, b1, b2, c1, c2, eps = numbers
    mean.mul_(b1).add_(gradient, alpha=c1)
    square.mul_(b2).addcmul_(gradient, gradient, value=c2)
    change = rate * mean / (square.sqrt() / correction + eps)
    if weight.dtype == torch.bfloat16:
        weight.copy_(round_stochastic(weight.float() - change, random_bits(weight.shape, *bits, weight.device)))
    else:
        weight.sub_(change.to(weight.dtype))


def round_stochastic(value: Tensor, bits: Tensor) -> Tensor:
    """float32 → bfloat16, up with the probability of how far up it is; bits int32, uniform in [0, 2^16)."""
    raised = value.view(torch.int32) + bits
    return (raised & ~0xFFFF).view(torch.float32).bfloat16()


def random_bits(shape: torch.Size, first: int, key: int, device: torch.device) -> Tensor:
    """16 random bits for elements ``first``, ``first`` + 1, ... of a parameter: a hash of position and key, int32."""
    x = (torch.arange(first, first + shape.numel(), device=device) % 2**32) ^ key
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) % 2**32
    return (x >> 16).int().view(shape)


@numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _adam(weight, mean, square, gradient, rate, correction, b1, b2, c1, c2, eps):  # type: ignore[no-untyped-def]
    over = np.float32(1.0) / correction
    for i in range(len(weight)):
        m = b1 * mean[i] + c1 * gradient[i]
        v = b2 * square[i] + c2 * gradient[i] * gradient[i]
        mean[i] = m
        square[i] = v
        weight[i] -= rate * m / (np.sqrt(v) * over + eps)


@numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _adam_bf16(bits, mean, square, gradient, first, key, rate, correction, b1, b2, c1, c2, eps):  # type: ignore[no-untyped-def]
    wide = np.empty(BLOCK, dtype=np.uint32)
    value = wide.view(np.float32)
    for low in range(0, len(bits), BLOCK):
        high = min(len(bits), low + BLOCK)
        for i in range(low, high):
            wide[i - low] = np.uint32(bits[i]) << np.uint32(16)
        some = slice(low, high)
        _adam(value[: high - low], mean[some], square[some], gradient[some], rate, correction, b1, b2, c1, c2, eps)
        for i in range(low, high):
            # The integer hash "lowbias32": two rounds of xor-shift and multiplication.
            x = np.uint32(first + np.uint32(i)) ^ key
            x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
            x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
            bits[i] = np.uint16((wide[i - low] + (x >> np.uint32(16))) >> np.uint32(16))
