"""Conformance of a method, a user's own or one of ours: a list of named checks, each with a reason when it fails."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from bench.check.classifier import CLASSIFIER_CHECKS
from bench.check.layer import LAYER_CHECKS
from bench.check.outcome import DOES_NOT_APPLY, FAILED, PASSED, UNSUPPORTED, Failed, Outcome, expect, outcome_of
from bench.check.runs import RUN_CHECKS
from bench.check.subject import Check, Subject
from bench.common.errors import InputError
from bench.model.methods import REQUIRED, capabilities_of


def check_method(method: str) -> Iterator[Outcome]:
    """Yields outcomes one by one, for a name under configs/method/ or a path to a method's YAML file.

    The first two checks end the list when they fail. Raises InputError when there is no such file, or when it is not
    that of a method.
    """
    subject = Subject.of(method)
    first = (interface, constructor)
    for check in first:
        outcome = outcome_of(check, subject)
        yield outcome
        if outcome.status != PASSED:
            return
    rest: tuple[Check, ...] = CLASSIFIER_CHECKS if subject.is_classifier else LAYER_CHECKS
    for further in (*rest, *RUN_CHECKS):
        outcome = outcome_of(further, subject)
        yield outcome
        if outcome.status == UNSUPPORTED:
            return


def interface(subject: Subject) -> str:
    """The class is found, and is an ``nn.Module`` with loss and topk, or has fit and topk; no name is misspelt."""
    try:
        found = subject.target
    except InputError as error:
        raise Failed(error, "a class that can be imported from here") from error
    offered = capabilities_of(found, subject.spec.target)
    is_classifier = "fit" in offered
    kind, needed = ("a classifier" if is_classifier else "an output layer"), REQUIRED[is_classifier]
    absent = [name for name in needed if name not in offered]
    expect(not absent, f"{kind} without {', '.join(absent)}", f"methods {' and '.join(needed)}")
    if not is_classifier:
        expect(issubclass(found, nn.Module), "an output layer that is no nn.Module", "a subclass of torch.nn.Module")
    return f"{subject.spec.target}, {kind}"


def constructor(subject: Subject) -> str:
    """The settings of the YAML file fit the constructor, and it accepts them."""
    subject.build()
    return ", ".join(f"{name} {value}" for name, value in subject.spec.settings.items()) or "no settings"


def summary(outcomes: list[Outcome]) -> str:
    """How many checks ended how, in a line."""
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in _ORDER}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


_ORDER = (PASSED, FAILED, DOES_NOT_APPLY, UNSUPPORTED)
