"""The networks of one run: one for an ordinary output layer, one for each group of repetitions otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import scipy.sparse as sp
import torch
from torch import nn

from bench.config.spec import NOTHING, TrainSettings, derive_seed
from bench.interface import Ranking
from bench.model.built_method import BuiltLayer, rank_without
from bench.model.device import has_bf16
from bench.model.group_size import available_bytes, group_size
from bench.model.network import Encoder, Network
from bench.model.optim import Optimiser


class RepetitionGroup:
    """Repetitions that are trained together as one network; ``repetitions`` is None for an ordinary layer.

    ``to_train`` is false where they were trained before; ``first`` is the number of the layer's repetition 0 in the
    whole layer.
    """

    def __init__(self, network: Network, repetitions: range | None, to_train: bool = True, first: int = 0) -> None:
        self.network, self.repetitions, self.to_train, self._first = network, repetitions, to_train, first

    @property
    def end(self) -> int | None:
        """Repetitions trained once this group is: the R of the prefix that it completes."""
        return None if self.repetitions is None else self.repetitions.stop

    @property
    def label(self) -> str:
        """``0-3`` for repetitions 0 to 3; empty for an ordinary layer."""
        if self.repetitions is None:
            return ""
        return f"{self._first + self.repetitions.start}-{self._first + self.repetitions.stop - 1}"


class Grouping(NamedTuple):
    """How repetitions are grouped where a run resumes, or where some of them were trained before."""

    size: int | None = None  # repetitions trained together; None: what settings and memory allow
    trained: Sequence[int] = ()  # repetitions whose weights are set (`repetition_parameters`) before anything is ranked


class Ensemble:
    """Encoders and output layer of a run.

    The encoder of a repetition is seeded by the run's seed and the repetition's number alone, and groups share no
    parameter, so how repetitions are grouped changes time and memory but not the model. NotImplementedError for what
    the layer or the hardware does not offer.
    """

    def __init__(
        self,
        layer: Any,
        n_features: int,
        settings: TrainSettings,
        seed: int,
        device: torch.device,
        grouping: Grouping | None = None,
    ) -> None:
        self.layer, self.settings, self.seed, self.device = layer, settings, seed, device
        self.built = built = BuiltLayer.of(layer)
        set_precision(layer, settings.precision, device)
        layer.to(device)  # before subsets are made, which share its memory
        total, grouping = built.repetitions, grouping or Grouping()
        self.shared, self.first = built.share_encoder, built.first
        if self.shared and settings.repetitions_at_a_time:
            raise NotImplementedError(
                f"repetitions_at_a_time: found {settings.repetitions_at_a_time}; expected 0 with share_encoder, "
                "because all repetitions train the one encoder at the same time"
            )
        lookup, n_hashed = built.feature_lookup(n_features)
        self._lookup_bytes = 0 if lookup is None else lookup.nbytes
        sizes = settings.hidden_sizes()
        self.group_size = grouping.size or self._group_size(total, n_hashed or n_features)
        self.groups: list[RepetitionGroup] = []
        for members in cut(total or 1, self.group_size, grouping.trained):
            numbers = [self.first + r for r in (members[:1] if self.shared else members)]
            seeds = [derive_seed(seed, "encoder", r) for r in numbers]
            rows = None if lookup is None else lookup[members.start : members.stop]
            encoder = Encoder(n_features, sizes, seeds, rows, n_hashed)
            output = layer if total is None or self.shared else layer.subset(members)
            group = None if total is None else members
            network = Network(encoder, output).to(device)
            self.groups.append(RepetitionGroup(network, group, members.start not in grouping.trained, self.first))
        self.to_train = [group for group in self.groups if group.to_train]
        self.prefixes: list[int | None] = [None] if total is None else list(range(1, total + 1))

    def _group_size(self, total: int | None, n_rows: int) -> int:
        if total is None or self.shared:
            return total or 1
        return group_size(self.settings, total, n_rows, _size(self.layer) // total, available_bytes(self.device))

    def parameters(self, R: int | None) -> dict[str, int]:
        """Parameters of the first R repetitions (or of the one network) by part of the network, and bytes of the index.

        An encoder that the repetitions share counts once, whatever R.
        """
        encoders = [group.network.encoder for group in self.groups]
        total_repetitions, share = len(self.prefixes), 1 if R is None else R
        n_input = sum(_size(encoder.bag) for encoder in encoders)
        n_hidden = sum(_size(encoder) for encoder in encoders) - n_input
        if not self.shared:
            n_input, n_hidden = n_input * share // total_repetitions, n_hidden * share // total_repetitions
        n_output = (_size(self.layer) + self.built.elsewhere) * share // total_repetitions
        index = self._lookup_bytes + self.built.index_bytes()
        total = n_input + n_hidden + n_output
        return {
            "params_total": total,
            "params_input": n_input,
            "params_hidden": n_hidden,
            "params_output": n_output,
            "params_per_repetition": total // share,
            "index_bytes": index * share // total_repetitions,
        }

    def warm_up(self, X: sp.csr_matrix, Y: sp.csr_matrix) -> None:
        """Run every kernel once, so that compiling and first allocations are not timed as training; weights stay.

        On a GPU with batches of all sizes that training has, because some have kernels compiled anew.
        """
        n_points, batch_size = X.shape[0], self.settings.batch_size
        some = slice(0, min(batch_size, n_points))
        sizes = [some.stop]
        if self.device.type == "cuda" and n_points % batch_size and n_points > batch_size:
            sizes.append(n_points % batch_size)  # of the last batch of an epoch
        for group in self.to_train:
            with Optimiser(group.network, 0.0, self.settings.optimiser) as optimiser:  # steps of length zero
                for size in sizes:
                    group.network.loss(X[:size], Y[:size]).backward()
                    optimiser.step()
                    optimiser.zero_grad()
        if self.settings.evaluate_on != NOTHING:
            with torch.no_grad():
                self.topk(X[some][:2], self.prefixes, self.settings.top_k)
                self.built.warm_up(self.settings.top_k)

    def repetition_parameters(self, r: int) -> dict[str, torch.Tensor]:
        """All that repetition r trains, by name, as views: its encoder, and its share of the layer."""
        group = next(group for group in self.groups if group.repetitions and r in group.repetitions)
        assert group.repetitions is not None
        encoder = group.network.encoder.parameters_of(r - group.repetitions.start)
        output = self.layer.subset(range(r, r + 1)).state_dict()
        named = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
        named |= {f"output.{name}": tensor for name, tensor in output.items()}
        return {name: tensor.detach() for name, tensor in named.items()}

    @property
    def decoders(self) -> list[str | None]:
        """Names of the layer's decoders, the default first; [None] for a layer with one."""
        return list(self.built.decoders)

    def topk(
        self, X: sp.csr_matrix, prefixes: list[int | None], k: int, left_out: sp.csr_matrix | None = None
    ) -> list[Ranking]:
        """(scores, labels) from the first R repetitions for each R in ``prefixes``; of the one network for [None].

        ``left_out``: CSR [N, n_labels], pairs that may not be ranked.
        """
        hidden = self.groups[0].network.hidden(X) if prefixes == [None] else self._hidden(X)

        def ranked(k: int, **excluded: sp.csr_matrix) -> list[Ranking]:
            if prefixes == [None]:
                return [self.layer.topk(hidden, k, **excluded)]
            return list(zip(*self.layer.topk_prefixes(hidden, k, prefixes, **excluded), strict=True))

        return rank_without(ranked, self.layer, k, left_out)

    def topk_decoders(
        self, X: sp.csr_matrix, prefixes: list[int | None], k: int, left_out: sp.csr_matrix | None = None
    ) -> list[Ranking]:
        """The same by each of ``decoders`` in turn."""
        if len(self.decoders) == 1:
            return self.topk(X, prefixes, k, left_out)
        hidden = self._hidden(X)

        def ranked(k: int, **excluded: sp.csr_matrix) -> list[Ranking]:
            found = self.layer.topk_decoders(hidden, k, prefixes, **excluded)
            return [ranking for name in self.decoders for ranking in zip(*found[name], strict=True)]

        return rank_without(ranked, self.layer, k, left_out)

    def _hidden(self, X: sp.csr_matrix) -> torch.Tensor:
        return torch.cat([group.network.hidden(X) for group in self.groups])

    def topk_so_far(
        self, X: sp.csr_matrix, group: RepetitionGroup, k: int, left_out: sp.csr_matrix | None = None
    ) -> Ranking:
        """(scores, labels) from the repetitions of the groups up to and including ``group``."""
        trained = [group] if group.end is None else self.groups[: self.groups.index(group) + 1]
        hidden = [member.network.hidden(X) for member in trained]
        layer = self.layer if group.end is None else self.layer.subset(range(group.end))
        inputs = hidden[0] if group.end is None else torch.cat(hidden)
        (found,) = rank_without(lambda k, **excluded: [layer.topk(inputs, k, **excluded)], layer, k, left_out)
        return found


def cut(total: int, size: int, trained: Sequence[int]) -> list[range]:
    """All numbers below ``total`` in order, in ranges of at most ``size``; each is trained already, or not, as a
    whole."""
    kept = set(trained)
    found: list[range] = []
    for r in range(total):
        if found and len(found[-1]) < size and (r in kept) == (found[-1].start in kept):
            found[-1] = range(found[-1].start, r + 1)
        else:
            found.append(range(r, r + 1))
    return found


def set_precision(layer: Any, precision: str, device: torch.device) -> None:
    """Set the layer's precision; NotImplementedError when it or the hardware does not have it."""
    built = BuiltLayer.of(layer)
    if precision not in built.precisions:
        raise NotImplementedError(f"precision {precision}: {type(layer).__name__} offers fp32 only")
    if precision == "bf16" and not has_bf16(device):
        raise NotImplementedError(f"precision bf16: this {device.type} has no bfloat16 instructions")
    if any(p.dtype == torch.bfloat16 for p in layer.parameters()) and not has_bf16(device):
        raise NotImplementedError(f"weights in bfloat16: this {device.type} has no bfloat16 instructions")
    built.use_precision(precision)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
