"""The answer of an experiment in sentences, computed from the table: the best method, its cost, where hashing loses."""

from __future__ import annotations

from collections.abc import Sequence

from bench.columns import REFERENCE, STATUS_WORDS, three_digits
from bench.report.groups import Configuration, repeats

QUESTION = (
    "Can a hashed output layer of B buckets and R repetitions rank labels as well as one score per label "
    f"({REFERENCE}), and at what cost in parameters?"
)


def verdict(groups: Sequence[Configuration]) -> list[str]:
    """Sentences for the configurations of one dataset; every number is a mean over seeds of table rows."""
    scored = [g for g in groups if g.mean("P@1") is not None]
    if not scored:
        return ["No run on this dataset has finished with a result."]
    best = _leader(scored)
    sentences = [f"The highest P@1 is {_percent(best)}, by {_named(best)}."]
    hashed = [g for g in scored if g.hashed]
    references = [g for g in scored if g.method == REFERENCE]
    if not references:
        return [*sentences, _no_reference(groups), _certainty(scored)]
    if not hashed:
        nothing = "No method with B and R has a result, so there is nothing to compare."
        return [*sentences, nothing, _certainty(scored)]
    full, top = _leader(references), _leader(hashed)
    subject = "That" if top is best else f"The best hashed setting, {_named(top)} at {_percent(top)},"
    sentences.append(f"{subject} is {_distance(top, full)}{_cost(top, full)}.")
    enough = [g for g in hashed if _p1(g) >= _p1(full) and g.mean("params_output")]
    least = min(enough, key=lambda g: g.mean("params_output") or 0.0, default=None)
    if least is None:
        sentences.append(f"No hashed setting tried here reaches {REFERENCE}: on this data hashing loses in accuracy.")
    elif least is not top:
        smallest = f"{_named(least)}, at {_percent(least)}"
        sentences.append(f"The smallest output layer to reach {REFERENCE} is {smallest}{_cost(least, full)}.")
    return [*sentences, _certainty(scored)]


def _leader(groups: Sequence[Configuration]) -> Configuration:
    """The highest P@1; among those equal to it at two decimals of per cent, the smallest output layer."""
    high = max(round(_p1(g), 4) for g in groups)
    return min((g for g in groups if round(_p1(g), 4) == high), key=lambda g: g.mean("params_output") or 0.0)


def _distance(group: Configuration, full: Configuration) -> str:
    gap = 100 * (_p1(group) - _p1(full))
    beside = f"{full.method} ({_percent(full)})"
    if abs(gap) < 0.005:
        return f"as high as {beside}"
    stats = [g.stat("P@1") for g in (group, full)]
    spreads = [100 * s.half for s in stats if s is not None and s.half is not None]
    doubt = ", less than the two spreads together" if len(spreads) == 2 and abs(gap) < sum(spreads) else ""
    return f"{abs(gap):.2f} points {'above' if gap > 0 else 'below'} {beside}{doubt}"


def _p1(group: Configuration) -> float:
    return group.mean("P@1") or 0.0


def _percent(group: Configuration) -> str:
    stat = group.stat("P@1")
    assert stat is not None
    spread = "" if stat.half is None else f" ± {100 * stat.half:.2f}"
    return f"{100 * stat.mean:.2f}{spread} %"


def _named(group: Configuration) -> str:
    return f"{group.method} (B = {group.B:,}, R = {group.R})" if group.hashed else group.method


def _cost(group: Configuration, full: Configuration) -> str:
    """Its size beside the reference: the output layer, and everything, since encoders are repeated too."""
    sizes = []
    for name, words in (("params_output", "its output parameters"), ("params_total", "all its parameters")):
        own, other = group.mean(name), full.mean(name)
        if own is not None and other:
            sizes.append(f"{three_digits(own / other)} times {words}")
    return f", with {' and '.join(sizes)}" if sizes else ""


def _no_reference(groups: Sequence[Configuration]) -> str:
    failed = [row for g in groups if g.method == REFERENCE for row in g.failed]
    if not failed:
        return f"{REFERENCE} was not run, so there is nothing to compare sizes and accuracy with."
    return f"{REFERENCE} gave no result: {STATUS_WORDS[failed[0]['status']]}, itself a finding (see failures)."


def _certainty(scored: Sequence[Configuration]) -> str:
    seeds = max(len(g.ok) for g in scored)
    if seeds == 1:
        return "One seed was run: the spread between seeds is unknown, so small differences mean little."
    over = repeats(row for g in scored for row in g.ok)
    return f"± is half the width of the mean's 95 % t interval over {over} (up to {seeds})."
