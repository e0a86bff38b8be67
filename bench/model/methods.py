"""The adapter of a method: the one place that imports its class and looks up what it offers (`bench.interface`)."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import scipy.sparse as sp

from bench.common.code_hash import find_users_own
from bench.common.errors import InputError
from bench.config.method_settings import SUPPLIED, checked_settings
from bench.config.spec import derive_seed
from bench.interface import CLASSIFIER_CAPABILITIES, LAYER_CAPABILITIES

REQUIRED = {False: ("loss", "topk"), True: ("fit", "topk")}  # by whether the method is a classifier
SEEDS = ("hashing", "initialisation", "sampling")  # uses of randomness in a layer, each with a seed of its own
ALIKE = 0.9  # ratio of `difflib` from which long names count as the same name misspelt
LONG = 6  # letters


class Encoders(NamedTuple):
    """Encoders that a layer trains with: ``repetitions`` is None for an ordinary layer, ``feature_hash`` 0 for none."""

    repetitions: int | None = None
    encoders: int = 1
    feature_hash: int = 0


@dataclass(frozen=True)
class Method:
    """A method's class, its settings, and the names of the capabilities that the class offers."""

    target: str  # dotted path
    cls: type
    settings: Mapping[str, Any]
    offered: frozenset[str]

    @classmethod
    def load(cls, target: str, settings: Mapping[str, Any]) -> Method:
        """Import a method and check it. Nothing is built.

        InputError where there is no such class, where it has a name that is nearly a capability's, and where settings
        do not fit its constructor.
        """
        return cls.of(method_class(target), settings, target)

    @classmethod
    def of(cls, found: type, settings: Mapping[str, Any], target: str = "") -> Method:
        """As `load`, of a class that is imported already."""
        target = target or f"{found.__module__}.{found.__qualname__}"
        offered = capabilities_of(found, target)
        supplied = () if "fit" in offered else SUPPLIED
        return cls(target, found, checked_settings(found, settings, supplied, f"method {target}"), offered)

    def with_settings(self, settings: Mapping[str, Any]) -> Method:
        """The same method with other settings. InputError where they do not fit."""
        return self.of(self.cls, settings, self.target)

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.cls.__name__

    @property
    def is_classifier(self) -> bool:
        """Whether it has ``fit``, and so is no output layer."""
        return "fit" in self.offered

    @property
    def processes(self) -> int:
        """Processes of a run. ValueError where the settings make no sense to the layer."""
        return int(self._static("processes")(**self.settings)) if "processes" in self.offered else 1

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions of its matrix products."""
        return tuple(self._static("precisions")) if "precisions" in self.offered else ("fp32",)

    @property
    def predicts_cost(self) -> bool:
        """Whether bytes and operations can be predicted."""
        return "cost" in self.offered

    @property
    def has_parts(self) -> bool:
        """Whether repetitions may be trained apart; `part` says it of the settings."""
        return "part" in self.offered

    @property
    def ranks_label_ranges(self) -> bool:
        """Whether a built layer can rank a range of labels alone."""
        return "rank_only" in self.offered

    @property
    def encoders(self) -> Encoders:
        """Repetitions and encoders by the settings; one encoder where the layer declares nothing."""
        return Encoders(**self._static("encoders")(**self.settings)) if "encoders" in self.offered else Encoders()

    def parameter_count(self, n_labels: int, hidden: int) -> int | None:
        """Trained parameters of the layer; None where it does not declare them."""
        if "parameter_count" not in self.offered:
            return None
        return int(self._static("parameter_count")(n_labels=n_labels, hidden=hidden, **self.settings))

    def cost(self, n_labels: int, hidden: int, run: Mapping[str, float]) -> Mapping[str, float] | None:
        """Bytes by purpose and operations of a step; None where the layer does not declare them."""
        if not self.predicts_cost:
            return None
        found: Mapping[str, float] = self._static("cost")(n_labels=n_labels, hidden=hidden, run=run, **self.settings)
        return found

    def part(self, repetitions: range) -> dict[str, Any] | None:
        """Settings of a layer of these repetitions alone; None where repetitions are not independent."""
        found = self._static("part")(repetitions, **self.settings) if self.has_parts else None
        return None if found is None else dict(found)

    def build_layer(self, hidden: int, train_labels: sp.csr_matrix, seed: int) -> Any:
        """The output layer, an ``nn.Module``, with the seeds that follow from the run's; train_labels CSR."""
        seeds = {axis: derive_seed(seed, axis) for axis in SEEDS}
        supplied = {"n_labels": train_labels.shape[1], "hidden": hidden, "train_labels": train_labels, "seeds": seeds}
        return self.cls(**supplied, **self.settings)

    def build_classifier(self) -> Any:
        """The classifier, not fitted."""
        return self.cls(**self.settings)

    def _static(self, name: str) -> Any:
        return getattr(self.cls, name)


def method_class(target: str) -> type:
    """The class behind a dotted path. InputError when there is none."""
    find_users_own()
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"method target {target!r}: {error}") from error
    if not isinstance(found, type):
        raise InputError(f"method target {target!r}: found {type(found).__name__}; expected a class")
    return found


def members_of(capabilities: Iterable[type]) -> frozenset[str]:
    """All names that protocols list."""
    names = {name for protocol in capabilities for name in (*vars(protocol), *protocol.__annotations__)}
    return frozenset(name for name in names if not name.startswith("_"))


def capabilities_of(found: type, target: str) -> frozenset[str]:
    """Names of `bench.interface` that a class has; InputError for a name that is nearly one that it has not."""
    public = {name for name in dir(found) if not name.startswith("_")}
    layer = members_of(LAYER_CAPABILITIES) | {*REQUIRED[False]}
    classifier = members_of(CLASSIFIER_CAPABILITIES) | {*REQUIRED[True]}
    known = classifier if "fit" in public else layer if "loss" in public else layer | classifier
    own = {
        name
        for base in found.__mro__
        if base.__module__.partition(".")[0] not in ("builtins", "torch", "typing")
        for name in (*vars(base), *vars(base).get("__annotations__", {}))
        if not name.startswith("_")
    }
    refuse_near_misses(own - known, known - public, f"method {target}")
    return known & public


def refuse_near_misses(found: Iterable[str], absent: Iterable[str], where: str, plurals: bool = True) -> None:
    """InputError for a name that is nearly one of those that are absent; ``plurals``: also by an s at its end."""
    for name in sorted(found):
        for right in sorted(absent):
            if _alike(name, right, plurals):
                raise InputError(f"{where}: found `{name}`; expected `{right}`, or a name that is less like it")


def _alike(name: str, right: str, plurals: bool) -> bool:
    """Equal but for case and underscores, or for the ending of a plural, or for a letter or two of a long name."""
    a, b = (text.replace("_", "").lower() for text in (name, right))
    if a == b:
        return True
    short, long = sorted((a, b), key=len)
    if long in (f"{short}s", f"{short}es"):
        return plurals
    return len(short) >= LONG and difflib.SequenceMatcher(None, a, b).ratio() >= ALIKE
