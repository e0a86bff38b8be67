"""Checks of a method in the harness: runs on the tiny twin, memory, and errors."""

from __future__ import annotations

import gc
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import nn

from bench.check.outcome import DoesNotApply, Failed, expect
from bench.check.subject import DATASET, N_POINTS, TOP_K, Check, Subject
from bench.metrics.ranking import evaluate
from bench.model.built_method import reproducible
from bench.model.ensemble import Ensemble
from bench.process.events import EpochDone, Event, Note
from bench.results.record import RunRecord
from bench.results.run_folder import RunFolder
from bench.run.execute import execute

UNKNOWN = "no-such-choice"
STOP_IN = 3  # of the five epochs


def beats_the_floor(subject: Subject) -> str:
    """Trained by a run of the harness, its P@1 on test points is above that of ranking labels by train frequency."""
    record, kept = subject.run
    data = subject.data
    counts = np.bincount(data.fit.Y.indices, minlength=subject.n_labels)
    floor = np.tile(np.argsort(-counts, kind="stable")[:TOP_K].astype(np.int32), (len(data.test), 1))
    if subject.is_classifier and np.array_equal(kept["labels"][-1], floor):
        raise DoesNotApply("it ranks labels by train frequency, and so is the floor")
    ours, theirs = record.own.metric("P@1"), evaluate(floor, data.test.Y)["P@1"]
    found = f"P@1 of {100 * ours:.2f} % on {DATASET}"
    expect(ours > theirs, found, f"more than the {100 * theirs:.2f} % of label frequencies")
    return f"{found}; label frequencies reach {100 * theirs:.2f} %"


def deterministic(subject: Subject) -> str:
    """Two runs of one spec give the same predictions, bit by bit."""
    if not reproducible(subject.build()):
        raise DoesNotApply("declared not to be reproducible")
    (_, first), (_, second) = subject.run, Subject(subject.spec).run
    for name in ("labels", "scores"):
        differ = int((first[name] != second[name]).sum())
        expect(differ == 0, f"{differ:,} of {first[name].size:,} {name} differ between two runs", "none")
    return "the same labels and scores twice"


def resumes(subject: Subject) -> str:
    """A run that is stopped and resumed from its checkpoint gives the same predictions, bit by bit."""
    if subject.is_classifier:
        raise DoesNotApply("it has no epochs to resume from")
    if not reproducible(subject.build()):
        raise DoesNotApply("declared not to be reproducible")
    (_, whole), (record, kept, notes) = subject.run, _stopped_run(subject)
    resumed = record.training.resumed if record.training else 0
    expect(resumed == 1, f"a run that started over ({'; '.join(notes)})", "one that resumes")
    for name in ("labels", "scores"):
        differ = int((whole[name] != kept[name]).sum())
        found = f"{differ:,} of {kept[name].size:,} {name} differ after a stop"
        expect(differ == 0, found, "none; a layer saves random streams of its own by get_extra_state")
    return f"the same labels and scores after a stop in epoch {STOP_IN}"


def frees_its_memory(subject: Subject) -> str:
    """After the last reference to a used method is dropped, none of its arrays and tensors is alive."""
    alive = _use(subject)
    gc.collect()
    left = [f"{name} ({kind})" for name, kind, reference in alive if reference() is not None]
    expect(not left, f"{', '.join(left[:3])} alive after the last reference to the method was dropped", "nothing")
    return f"{len(alive)} objects gone"


def fails_with_a_reason(subject: Subject) -> str:
    """An impossible value of a setting ends in an error with a message; for a choice the message names the value."""
    settings = subject.spec.settings
    choices = [name for name, value in settings.items() if isinstance(value, str)]
    numbers = [name for name, value in settings.items() if type(value) in (int, float)]
    tried = choices or numbers
    if not tried:
        raise DoesNotApply("no setting to set wrongly")
    for name in tried:
        wrong = replace(subject.spec, settings={**settings, name: UNKNOWN})
        try:
            _ = Subject(wrong).run
        except Exception as error:
            says = f"{type(error).__name__}: {error}"
            if choices:
                expect(UNKNOWN in str(error), f"{name}: {says}", f"a message that names the value {UNKNOWN!r}")
            expect(bool(str(error).strip()), f"{name}: {type(error).__name__} without a message", "a message")
        else:
            raise Failed(f"a run that finished with {name}: {UNKNOWN}", "an error that says why not")
    return f"{', '.join(tried)}: {UNKNOWN}"


RUN_CHECKS: tuple[Check, ...] = (beats_the_floor, deterministic, resumes, frees_its_memory, fails_with_a_reason)


class _Stopped(Exception):
    """Ends a run as a kill would."""


def _stopped_run(subject: Subject) -> tuple[RunRecord, dict[str, npt.NDArray[Any]], list[str]]:
    """Record and kept predictions of a run that was stopped once, and the notes of the harness."""
    spec = replace(subject.spec, train=replace(subject.spec.train, checkpoint_every_s=0.0))
    notes: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    def emit_and_stop(event: Event) -> None:
        emit(event)
        if isinstance(event, EpochDone) and event.epoch == STOP_IN:
            raise _Stopped

    with tempfile.TemporaryDirectory() as results:
        folder = RunFolder.create(Path(results) / "check" / "runs", "check", spec)
        with suppress(_Stopped):
            execute(spec, folder, emit_and_stop)
        record = execute(spec, folder, emit)
        with np.load(folder.path / "topk.npz", allow_pickle=False) as kept:
            return record, dict(kept), notes


def _use(subject: Subject) -> list[tuple[str, str, weakref.ref[Any]]]:
    """Build a method and use all of it once; returns weak references to it and to what it held."""
    fresh = Subject(subject.spec)  # its data and its instances go with it
    fit = fresh.data.fit
    method = fresh.build()
    if fresh.is_classifier:
        method.fit(fit.X, fit.Y)
        method.topk(fit.X[:N_POINTS], TOP_K)
    else:
        ensemble = Ensemble(method, fit.X.shape[1], fresh.spec.train, fresh.spec.seed, torch.device("cpu"))
        ensemble.warm_up(fit.X, fit.Y)
    held = [("the method", method), *_held(method)]
    return [(name, type(value).__name__, weakref.ref(value)) for name, value in held]


def _held(method: Any) -> Iterator[tuple[str, Any]]:
    """Arrays, matrices and tensors that are attributes of a method or of a part of it."""
    parts = dict(method.named_modules()) if isinstance(method, nn.Module) else {"": method}
    for path, part in parts.items():
        values = {**vars(part), **vars(part).get("_parameters", {}), **vars(part).get("_buffers", {})}
        for name, value in values.items():
            if isinstance(value, np.ndarray | torch.Tensor) or sp.issparse(value):
                yield f"{path}.{name}".lstrip("."), value
