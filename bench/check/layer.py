"""Checks of an output layer by itself: loss, gradients, rankings, and what it declares."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from bench.check.outcome import DoesNotApply, Failed, expect
from bench.check.rankings import begins, same_scores, some_pairs, well_formed
from bench.check.subject import N_POINTS, TOP_K, Check, Subject, emptied, finite
from bench.metrics.scorer import without
from bench.model.built_method import BuiltLayer, row_sparse_parameters, takes_excluded


def parameter_count(subject: Subject) -> str:
    """The static method ``parameter_count`` of the settings gives the layer's trained parameters."""
    found = subject.method.parameter_count(subject.n_labels, subject.hidden)
    if found is None:
        raise DoesNotApply("no static method parameter_count declares one")
    real = sum(parameter.numel() for parameter in subject.layer.parameters())
    expect(found == real, f"{found:,} declared", f"the {real:,} that the layer has")
    return f"{real:,} declared and real"


def loss(subject: Subject) -> str:
    """A finite scalar on a batch in which some points have no labels; hidden and labels stay as they were."""
    hidden, labels = subject.activations(), subject.labels.copy()
    before = hidden.clone()
    value = _loss(subject.layer, hidden, labels)
    arrays = [(getattr(m, name) for name in ("data", "indices", "indptr")) for m in (labels, subject.labels)]
    unchanged = torch.equal(hidden, before) and all(np.array_equal(a, b) for a, b in zip(*arrays, strict=True))
    expect(unchanged, "hidden or labels changed by the loss", "both left as they were")
    return f"{value.item():.4g} on {N_POINTS} points, two of them without labels"


def loss_without_labels(subject: Subject) -> str:
    """A finite scalar, with finite gradients, on a batch in which no point has a label."""
    hidden = subject.activations().requires_grad_()
    value = _loss(subject.layer, hidden, emptied(subject.labels, range(N_POINTS)))
    _backward(subject.layer, value)
    return f"{value.item():.4g}"


def loss_of_one_point(subject: Subject) -> str:
    """A finite scalar, with finite gradients, on a batch of one: the last batch of an epoch may be that small."""
    hidden = subject.activations(1).requires_grad_()
    value = _loss(subject.layer, hidden, subject.labels[1])
    _backward(subject.layer, value)
    return f"{value.item():.4g}"


def gradients(subject: Subject) -> str:
    """They reach hidden and parameters, are finite, and are sparse for what ``row_sparse`` lists and nothing else."""
    layer, hidden = subject.layer, subject.activations().requires_grad_()
    _backward(layer, _loss(layer, hidden, subject.labels))
    expect(hidden.grad is not None, "no gradient of hidden", "one, or the trunk learns nothing")
    assert hidden.grad is not None
    finite(hidden.grad, "gradient of hidden")
    expect(bool(hidden.grad.any()), "a gradient of hidden that is 0", "one that is not, or the trunk learns nothing")
    listed = {id(parameter) for parameter in row_sparse_parameters(layer)}
    reached = {name: parameter for name, parameter in layer.named_parameters() if parameter.grad is not None}
    has_parameters = next(layer.parameters(), None) is not None
    expect(bool(reached) or not has_parameters, "no gradient of any parameter", "at least one")
    for name, parameter in reached.items():
        is_sparse, in_list = parameter.grad.is_sparse, id(parameter) in listed
        kind = "sparse" if is_sparse else "dense"
        where = "in" if in_list else "not in"
        expect(is_sparse == in_list, f"a {kind} gradient of {name}, which is {where} row_sparse", "the two to agree")
    layer.zero_grad()
    return f"finite for hidden and {len(reached)} parameters"


def topk(subject: Subject) -> str:
    """(scores, labels) of the right types and shapes, labels in range and once, best first."""
    with torch.no_grad():
        ranking = subject.layer.topk(subject.activations(), TOP_K)
    well_formed(ranking, N_POINTS, TOP_K, subject.n_labels)
    return f"{N_POINTS} points, k = {TOP_K}"


def topk_of_one_point(subject: Subject) -> str:
    """A point by itself gets the scores that it gets among others."""
    hidden = subject.activations()
    with torch.no_grad():
        together = well_formed(subject.layer.topk(hidden, TOP_K), N_POINTS, TOP_K, subject.n_labels)
        alone = well_formed(subject.layer.topk(hidden[..., :1, :], TOP_K), 1, TOP_K, subject.n_labels)
    same_scores(alone, (together[0][:1], together[1][:1]), "for a point alone and among others")
    return "as in a batch"


def topk_of_all(subject: Subject) -> str:
    """A k above the number of labels is no error, and a smaller k gives the beginning of the same ranking."""
    k, hidden = subject.n_labels + 3, subject.activations(8)
    with torch.no_grad():
        every = well_formed(subject.layer.topk(hidden, k), 8, k, subject.n_labels)
        few = well_formed(subject.layer.topk(hidden, 3), 8, 3, subject.n_labels)
    begins(few, every)
    width = every[0].shape[1]
    return f"k = {k} of {subject.n_labels} labels: {width} columns{', filled up with -1' if width == k else ''}"


def ties(subject: Subject) -> str:
    """With all parameters and activations 0 most labels tie, and the lowest label ids come first."""
    layer, hidden = subject.build(), torch.zeros_like(subject.activations(2))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        every = well_formed(layer.topk(hidden, subject.n_labels), 2, subject.n_labels, subject.n_labels)
        few = well_formed(layer.topk(hidden, 3), 2, 3, subject.n_labels)
    if not (every[0][:, 1:] == every[0][:, :-1]).any():
        raise DoesNotApply("no two labels tie, even with all parameters and activations 0")
    begins(few, every)
    return f"lowest label id first among {subject.n_labels} labels"


def prefixes(subject: Subject) -> str:
    """``topk_prefixes`` ranks by each number of repetitions, the last as ``topk`` does; so do subset and decoders."""
    layer, built, R = subject.layer, subject.built, subject.built.repetitions
    if R is None:
        raise DoesNotApply("a layer without repetitions")
    hidden, every = subject.activations(), list(range(1, R + 1))
    with torch.no_grad():
        scores, labels = layer.topk_prefixes(hidden, TOP_K, every)
        expect(len(scores) == len(labels) == R, f"{len(labels)} rankings", f"one for each of {R} prefixes")
        found = [well_formed(pair, N_POINTS, TOP_K, subject.n_labels) for pair in zip(scores, labels, strict=True)]
        _same(layer.topk(hidden, TOP_K), found[-1], "topk and the last prefix")
        if not built.share_encoder:
            first = layer.subset(range(1))
            _same(first.topk(hidden[:1], TOP_K), found[0], "subset(range(1)) and the first prefix")
            own = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
            of_subset = {parameter.untyped_storage().data_ptr() for parameter in first.parameters()}
            expect(of_subset <= own, "a subset with memory of its own", "parameters in the layer's memory")
        names = [name for name in built.decoders if name is not None]
        if names:
            decoded = layer.topk_decoders(hidden, TOP_K, every)
            expect(list(decoded) == names, f"decoders {list(decoded)}", names)
            own_scores, own_labels = decoded[names[0]]
            _same((own_scores[-1], own_labels[-1]), found[-1], "topk and the first decoder")
    return f"{R} prefixes, {max(1, len(names))} decoder{'s' * (len(names) > 1)}"


def parts(subject: Subject) -> str:
    """A layer of some repetitions alone, as ``part`` gives its settings, begins and loses as those of the whole do."""
    layer, R = subject.layer, subject.built.repetitions
    if R is None or not subject.method.has_parts:
        raise DoesNotApply("no static method part")
    members = range(1, R) if R > 1 else range(1)
    settings = subject.method.part(members)
    if settings is None:
        raise DoesNotApply("its repetitions are not independent")
    alone = subject.build(settings)
    first = BuiltLayer.of(alone).first
    expect(first == members.start, f"attribute first {first}", f"{members.start}, the first repetition of the part")
    expect(alone.repetitions == len(members), f"a part of {alone.repetitions} repetitions", len(members))
    for at, r in enumerate(members):
        mine, whole = alone.subset(range(at, at + 1)).state_dict(), layer.subset(range(r, r + 1)).state_dict()
        expect(mine.keys() == whole.keys(), f"states {', '.join(mine)}", f"{', '.join(whole)}, as in the whole")
        for name, tensor in mine.items():
            expect(torch.equal(tensor, whole[name]), f"{name} of repetition {r} apart", "the same as in the whole")
    hidden = subject.activations()[members.start : members.stop]
    with torch.no_grad():
        found, expected = alone.loss(hidden, subject.labels), layer.subset(members).loss(hidden, subject.labels)
    expect(torch.equal(found, expected), f"loss {float(found)} alone", f"{float(expected)}, as of the subset")
    return f"repetitions {members.start} to {members[-1]} alone equal those of the whole"


def labels_apart(subject: Subject) -> str:
    """After ``rank_only`` a layer ranks the labels of a range alone, with the scores that they have among all."""
    if not subject.method.ranks_label_ranges:
        raise DoesNotApply("no method rank_only")
    layer, hidden, K = subject.build(), subject.activations(), subject.n_labels
    with torch.no_grad():
        scores, labels = layer.topk(hidden, K)
        members = range(K // 3, K)
        layer.rank_only(members)
        found = well_formed(layer.topk(hidden, len(members)), N_POINTS, len(members), K)
    mine = labels >= members.start
    for at, (right_scores, right_labels) in enumerate(zip(scores, labels, strict=True)):
        right = right_scores[mine[at]], right_labels[mine[at]]
        _same(
            [array[at] for array in found], right, f"labels {members.start} to {K - 1} alone and among all, point {at}"
        )
    return f"labels {members.start} to {K - 1} alone rank as among all {K}"


def excluded(subject: Subject) -> str:
    """With ``takes_excluded``, topk without some labels is the ranking of all without them; so are its variants."""
    layer, hidden, K = subject.layer, subject.activations(), subject.n_labels
    if not takes_excluded(layer):
        raise DoesNotApply("no takes_excluded")
    with torch.no_grad():
        every = layer.topk(hidden, K)
        pairs = some_pairs(every[1])
        found = well_formed(layer.topk(hidden, TOP_K, excluded=pairs), N_POINTS, TOP_K, K)
        _same(found[1:], without(every, pairs, TOP_K)[1:], "topk without some labels and all without them")
        if subject.built.repetitions is not None:
            R = subject.built.repetitions
            prefixes = layer.topk_prefixes(hidden, TOP_K, [R], excluded=pairs)
            _same([array[0] for array in prefixes], found, "topk and topk_prefixes without some labels")
        if len(subject.built.decoders) > 1:
            decoded = layer.topk_decoders(hidden, TOP_K, [R], excluded=pairs)[subject.built.decoders[0]]
            _same([array[0] for array in decoded], found, "topk and topk_decoders without some labels")
    return f"{pairs.nnz} pairs of {N_POINTS} points are in no list"


def facts(subject: Subject) -> str:
    """``facts`` is a list with a dict for each number of repetitions; ``index_bytes`` is a number of bytes."""
    built = subject.built
    if not built.has_facts:
        raise DoesNotApply("neither facts nor index_bytes")
    n, found = built.repetitions or 1, built.facts()
    is_list = isinstance(found, list) and all(isinstance(entry, dict) for entry in found)
    expect(is_list and len(found) == n, f"facts {found!r}", f"a list of {n} dict{'s' * (n > 1)}")
    index = built.index_bytes()
    expect(isinstance(index, int) and index >= 0, f"index_bytes {index!r}", "a whole number, 0 or more")
    return f"{', '.join(found[-1]) or 'none'}; index of {index:,} bytes"


LAYER_CHECKS: tuple[Check, ...] = (
    *(parameter_count, loss, loss_without_labels, loss_of_one_point, gradients),
    *(topk, topk_of_one_point, topk_of_all, ties, prefixes, parts, labels_apart, excluded, facts),
)


def _loss(layer: nn.Module, hidden: torch.Tensor, labels: sp.csr_matrix) -> torch.Tensor:
    value: Any = layer.loss(hidden, labels)  # type: ignore[operator]
    if not isinstance(value, torch.Tensor):
        raise Failed(f"a loss of {type(value).__name__}", "a scalar tensor")
    expect(value.shape == (), f"a loss of shape {tuple(value.shape)}", "a scalar tensor")
    expect(bool(torch.isfinite(value)), f"loss {value.item()}", "a finite number")
    return value


def _backward(layer: nn.Module, value: torch.Tensor) -> None:
    layer.zero_grad()
    value.backward()
    for name, parameter in layer.named_parameters():
        if parameter.grad is not None:
            finite(parameter.grad, f"gradient of {name}")


def _same(found: Any, expected: Any, what: str) -> None:
    equal = all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    expect(equal, f"{what} apart", "the same ranking")
