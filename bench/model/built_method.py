"""What a method offers once it is built: attributes that may follow from its settings, looked up here alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from torch import nn

from bench.interface import LAYER_CAPABILITIES, Ranking
from bench.metrics.scorer import without
from bench.model.methods import members_of, refuse_near_misses


@dataclass(frozen=True)
class BuiltLayer:
    """An output layer and its capabilities, with defaults for those that it has not."""

    module: Any  # an nn.Module with the methods of `bench.interface.OutputLayer`
    repetitions: int | None  # None for an ordinary layer
    share_encoder: bool
    first: int  # number of its first repetition in the whole layer
    decoders: tuple[str | None, ...]  # the default first; (None,) for an ordinary layer
    elsewhere: int  # parameters that other processes hold
    precisions: tuple[str, ...]

    @classmethod
    def of(cls, module: nn.Module) -> BuiltLayer:
        """InputError where an attribute has nearly the name of a capability's, but not it."""
        _refuse_near_misses(module)
        repetitions = repetitions_of(module)
        return cls(
            module,
            repetitions,
            repetitions is not None and bool(getattr(module, "share_encoder", False)),
            int(getattr(module, "first", 0)),
            tuple(getattr(module, "decoders", (None,))),
            int(getattr(module, "elsewhere", 0)),
            tuple(getattr(module, "precisions", ("fp32",))),
        )

    @property
    def has_facts(self) -> bool:
        """Whether it reports columns of the results, or the bytes of lookup tables."""
        return hasattr(self.module, "facts") or hasattr(self.module, "index_bytes")

    def facts(self) -> Sequence[Mapping[str, Any]]:
        """More columns for each number of repetitions; one entry for an ordinary layer."""
        found: Sequence[Mapping[str, Any]] = (
            self.module.facts() if hasattr(self.module, "facts") else [{} for _ in range(self.repetitions or 1)]
        )
        return found

    def index_bytes(self) -> int:
        """Bytes of its lookup tables."""
        found: int = self.module.index_bytes() if hasattr(self.module, "index_bytes") else 0
        return found

    @property
    def lookup(self) -> npt.NDArray[np.integer] | None:
        """Its hash tables, if any."""
        found = getattr(self.module, "lookup", None)
        return found if isinstance(found, np.ndarray) else None

    def feature_lookup(self, n_features: int) -> tuple[npt.NDArray[np.integer] | None, int]:
        """Hashed features [R, n_features] and their number; (None, 0) for features as they are."""
        if self.repetitions is None or not hasattr(self.module, "feature_lookup"):
            return None, 0
        found = self.module.feature_lookup(n_features)
        return found, 0 if found is None else int(self.module.feature_hash)

    def warm_up(self, k: int) -> None:
        """Compile what ranking may need."""
        if hasattr(self.module, "warm_up"):
            self.module.warm_up(k)

    def use_precision(self, precision: str) -> None:
        """Set the precision of its matrix products, one of ``precisions``."""
        if hasattr(self.module, "precision"):
            self.module.precision = precision


@dataclass(frozen=True)
class BuiltClassifier:
    """A classifier and its capabilities, with defaults for those that it has not."""

    instance: Any  # with the methods of `bench.interface.Classifier`

    @property
    def prepares(self) -> bool:
        """Whether there is work before ``fit``."""
        return hasattr(self.instance, "prepare")

    def prepare(self, seed: int, threads: int) -> None:
        """Get ready for ``fit``. NotImplementedError where the method cannot be had here."""
        if self.prepares:
            self.instance.prepare(seed=seed, threads=threads)

    @property
    def batched(self) -> bool:
        """Whether points may be ranked in batches."""
        return bool(getattr(self.instance, "batched", True))

    def topk(self, X: sp.csr_matrix, k: int, left_out: sp.csr_matrix | None = None) -> Ranking:
        """(scores [N, k], labels [N, k]) without the pairs ``left_out`` [N, n_labels]."""
        (found,) = rank_without(lambda k, **more: [self.instance.topk(X, k, **more)], self.instance, k, left_out)
        return found

    def facts(self) -> Mapping[str, Any] | None:
        """More columns of the results; None where it reports none."""
        return self.instance.facts() if hasattr(self.instance, "facts") else None


def takes_excluded(ranker: Any) -> bool:
    """Whether a layer, a part of one, or a classifier leaves pairs out while it ranks."""
    return bool(getattr(ranker, "takes_excluded", False))


def rank_without(
    ranked: Callable[..., list[Ranking]], ranker: Any, k: int, left_out: sp.csr_matrix | None
) -> list[Ranking]:
    """Rankings [N, k] without the pairs ``left_out`` [N, n_labels], the same whoever leaves them out.

    ``ranked(k)`` ranks with ``ranker``, a layer or a classifier, which leaves the pairs out itself where it can
    (`bench.interface.Exclusions`). Otherwise they are dropped from a ranking that is longer by as many as any point
    has.
    """
    if left_out is None:
        return ranked(k)
    if takes_excluded(ranker):
        return ranked(k, excluded=left_out)
    longer = ranked(k + int(np.diff(left_out.indptr).max(initial=0)))
    return [without(ranking, left_out, k) for ranking in longer]


def reproducible(built: Any) -> bool:
    """Whether the same settings and seed give the same predictions, of a layer or a classifier."""
    return bool(getattr(built, "reproducible", True))


def repetitions_of(layer: nn.Module) -> int | None:
    """Repetitions of a layer or of a part of one; None for an ordinary layer."""
    found: int | None = getattr(layer, "repetitions", None)
    return found


def row_sparse_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that modules list by name in their attribute ``row_sparse``: their gradients are sparse."""
    return [part.get_parameter(name) for part in module.modules() for name in getattr(part, "row_sparse", ())]


def chunked_parts(module: nn.Module) -> list[Any]:
    """Modules that have parameters of theirs updated within the loss (`bench.interface.ChunkedUpdates`)."""
    return [part for part in module.modules() if getattr(part, "chunked", ())]


def offset_of(layer: Any) -> int:
    """What the first row of a layer's chunked parameters is in the whole layer."""
    return int(getattr(layer, "offset", 0))


def _refuse_near_misses(module: nn.Module) -> None:
    """Attributes that are set when the layer is built, beside the names of its class that `Method` looked at.

    An attribute counts only where the layer has a method of the same capability, or where the capability is that
    attribute alone: a count named ``updates`` or a list named ``parts`` is nothing that the harness looks for.
    """
    own = {name for name in vars(module) if not name.startswith("_")} - members_of(LAYER_CAPABILITIES)
    where = f"method {type(module).__module__}.{type(module).__qualname__}"
    for protocol in LAYER_CAPABILITIES:
        names = members_of([protocol])
        attributes = [name for name in names if name in protocol.__annotations__]
        methods = names.difference(attributes)
        absent = [name for name in attributes if not hasattr(module, name)]
        if not methods or _any_offered(module, methods):
            refuse_near_misses(own, absent, where, plurals=bool(methods))


def _any_offered(module: nn.Module, names: Iterable[str]) -> bool:
    return any(hasattr(module, name) for name in names)
