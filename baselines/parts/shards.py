"""Labels divided over processes: each has the rows of some labels, and exchanges what a step needs of the others.

The output layer of Shoeybi et al. 2019 ("Megatron-LM", section 3: the cross-entropy fused with the parallel product),
with a whole encoder in every process. The processes are those of torch.distributed's default group.

Copies of the encoder stay equal bit for bit only if all processes get the same bits from an exchange. torch does not
promise that of an all-reduce, so sums are made here: each is added up once, or by all in the order of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


def check_shards(shards: int, n_labels: int | None = None) -> int:
    """The number of shards, if it is valid. ValueError when it is not, or when there are fewer labels."""
    if isinstance(shards, bool) or not isinstance(shards, int) or shards < 1:
        raise ValueError(f"shards must be a whole number of at least 1, got {shards!r}")
    if n_labels is not None and shards > n_labels:
        raise ValueError(f"shards: found {shards}; expected at most {n_labels}, the number of labels")
    return shards


@dataclass(frozen=True)
class Shards:
    """The processes that share a layer's labels; this one is ``rank`` of ``count``. A single one exchanges nothing.

    Every method but `rows` is collective: all processes call it, in the same order, with tensors of the same shape.
    ConnectionError where that fails, for example because another process has ended.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def of(cls, count: int) -> Shards:
        """Those of the default process group. ValueError where that does not have ``count`` processes."""
        if check_shards(count) == 1:
            return cls()
        found = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if found != count:
            raise ValueError(f"shards {count}: found a process group of {found}; expected one process for each shard")
        return cls(dist.get_rank(), count)

    def rows(self, n_labels: int) -> slice:
        """The labels of this process: contiguous, and the numbers of two processes differ by at most one."""
        check_shards(self.count, n_labels)
        return slice(self.rank * n_labels // self.count, (self.rank + 1) * n_labels // self.count)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, in the order of ranks."""
        if self.count == 1:
            return [tensor]
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        with _exchange():
            dist.all_gather(parts, tensor.contiguous())
        return parts

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a small tensor over processes; every process gets all parts."""
        first, *others = self.gather(tensor)
        for part in others:
            first = first + part
        return first

    def sum_large(self, tensor: Tensor) -> Tensor:
        """The same for a larger one: each process adds up a piece of it, so that traffic hardly grows with their count.

        Sends and receives 2·(1 − 1/S) times its bytes with S processes, as an all-reduce in a ring does.
        """
        if self.count <= 2:  # the same traffic, and one exchange instead of two
            return self.sum(tensor)
        flat = tensor.reshape(-1)
        pieces = flat.new_zeros(self.count, -(-len(flat) // self.count))
        pieces.view(-1)[: len(flat)] = flat
        parts = torch.empty_like(pieces)
        with _exchange():
            dist.all_to_all_single(parts, pieces)
        return torch.cat(self.gather(parts.sum(0)))[: len(flat)].view(tensor.shape)


@contextmanager
def _exchange() -> Iterator[None]:
    """Failures between processes nearly always mean that another one has ended, so they get an error of their own."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(f"exchange with the other processes: {error}") from error
