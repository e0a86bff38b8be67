"""The answer in sentences, computed from the table: who is best, what it costs, and where hashing loses."""

from __future__ import annotations

from collections.abc import Sequence

from bench.columns import STATUS_WORDS, three_digits
from bench.summary import REFERENCE, Group

QUESTION = (
    "Can a hashed output layer of B buckets and R repetitions rank labels as well as one score a label "
    f"({REFERENCE}), and at what cost in parameters?"
)


def verdict(groups: Sequence[Group]) -> list[str]:
    """Sentences for the configurations of one dataset; every number is a mean over seeds of table rows."""
    scored = [g for g in groups if g.mean("P@1") is not None]
    if not scored:
        return ["No run on this dataset has finished with a result."]
    best = max(scored, key=_p1)
    told = [f"The highest P@1 is {_percent(best)}, by {_named(best)}."]
    hashed = [g for g in scored if g.hashed]
    references = [g for g in scored if g.method == REFERENCE]
    if not references:
        return [*told, _no_reference(groups), _certainty(scored)]
    full = max(references, key=_p1)
    if not hashed:
        nothing = "No method with B and R has finished, so there is nothing to compare it with."
        return [*told, nothing, _certainty(scored)]
    top = max(hashed, key=_p1)
    gap = 100 * (_p1(top) - _p1(full))
    side = "above" if gap > 0 else "below"
    apart = "as high as" if abs(gap) < 0.005 else f"{abs(gap):.2f} points {side}"
    beside = f"{apart} {_named(full)} ({_percent(full)})"
    told.append(f"The best hashed setting, {_named(top)}, is {beside}{_cost(top, full)}.")
    enough = [g for g in hashed if _p1(g) >= _p1(full) and g.mean("params_output")]
    if not enough:
        told.append(
            f"No hashed setting that was tried reaches {REFERENCE}: on this data it loses in accuracy."
        )
    else:
        least = min(enough, key=lambda g: g.mean("params_output") or 0.0)
        if least is not top:
            told.append(
                f"The smallest output layer that reaches {REFERENCE} is {_named(least)} with {_percent(least)}"
                f"{_cost(least, full)}."
            )
    return [*told, _certainty(scored)]


def _p1(group: Group) -> float:
    return group.mean("P@1") or 0.0


def _percent(group: Group) -> str:
    stat = group.stat("P@1")
    assert stat is not None
    spread = "" if stat.sd is None else f" ± {100 * stat.sd:.2f}"
    return f"{100 * stat.mean:.2f}{spread} %"


def _named(group: Group) -> str:
    return f"{group.method} (B = {group.B:,}, R = {group.R})" if group.hashed else group.method


def _cost(group: Group, full: Group) -> str:
    """Its size beside the reference: the output layer, and everything, since encoders are repeated too."""
    told = []
    for name, words in (("params_output", "its output parameters"), ("params_total", "all its parameters")):
        own, other = group.mean(name), full.mean(name)
        if own is not None and other:
            told.append(f"{three_digits(own / other)} times {words}")
    return f", with {' and '.join(told)}" if told else ""


def _no_reference(groups: Sequence[Group]) -> str:
    failed = [row for g in groups if g.method == REFERENCE for row in g.failed]
    if not failed:
        return f"{REFERENCE} was not run, so there is nothing to compare sizes and accuracy with."
    return (
        f"{REFERENCE} gave no result: {STATUS_WORDS[failed[0]['status']]}, itself a finding (see failures)."
    )


def _certainty(scored: Sequence[Group]) -> str:
    seeds = max(len(g.ok) for g in scored)
    if seeds == 1:
        return "One seed was run: the spread between seeds is unknown, so small differences mean little."
    return f"± is the sample standard deviation over seeds (up to {seeds})."
