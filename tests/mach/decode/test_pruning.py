"""When the scan uses half bytes, and when a decoder prunes: choices by measured times."""

from __future__ import annotations

import numpy as np
import pytest
from test_decode import FAR, assert_same, simulated

from mach.decode.cpu.pruned import LONGEST_REST, REMEMBERED, _Experience
from mach.decode.cpu.simd.vectors import LINE
from mach.decode.cpu.tuner import AGAIN, FEW, HALF, WHOLE, Tuner
from mach.decode.decoder import Decoder
from mach.hashing.families import hash_labels


def test_the_tuner_chooses_what_was_measured_to_be_faster() -> None:
    tuner = Tuner(n_labels=1000, B=FAR)

    def chosen() -> object:
        return tuner.choose(300, "sum", 16, 1)[0]

    for grain, seconds in ((HALF, 1.0), (WHOLE, 0.1)):
        for _ in range(2):  # the first of each compiles and does not count
            assert chosen() == grain
            tuner.learn((grain, 16, 1), 64, seconds)
    assert chosen() == WHOLE
    assert tuner.expected_seconds(3 * LINE, 16) == pytest.approx(0.3)
    tried = []
    for _ in range(AGAIN):
        tried.append(chosen())
        tuner.learn((tried[-1], 16, 1), 64, 0.1)  # half a byte has become faster
    assert HALF in tried
    assert tuner.choose(LINE, "sum", 16, 1)[0] == WHOLE
    assert tuner.choose(FEW, "sum", 16, 1)[0] is None
    assert Tuner(n_labels=1000, B=100).choose(300, "sum", 16, 1)[0] == WHOLE


def test_pruning_that_does_not_pay_is_tried_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    lookup = hash_labels(30_000, 500, 16)
    flat = np.random.default_rng(0).normal(size=(64, 16, 500)).astype(np.float32)
    decoder = Decoder(lookup, 500)
    decoder.prepare()
    tried = []
    search = decoder._pruned._prune
    call = -1

    def noted(*arguments: object) -> object:
        tried.append(call)
        return search(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(decoder._pruned, "_prune", noted)
    for call in range(40):  # noqa: B007 (noted reads it)
        assert_same(decoder.top_k(flat, 5), decoder.top_k(flat, 5, method="dense"))
    assert np.diff(sorted(set(tried)))[:5].tolist() == [2, 3, 5, 9, LONGEST_REST + 1]
    assert len(tried) == len(set(tried)) + 1  # one round, then it gave up; one more where the first compiled


def test_a_few_failures_do_not_stop_pruning() -> None:
    seen = _Experience()
    seen.add(tried=24, failed=9, seconds=1.0)
    assert seen.hoped_share() == pytest.approx(0.375 - (0.375 * 0.625 / 24 + 1 / 24**2) ** 0.5)
    seen.add(tried=400, failed=0, seconds=1.0)
    seen.learn(paid=True)  # earlier points fade
    assert seen.tried == REMEMBERED
    assert seen.failed / seen.tried == pytest.approx(9 / 424)
    slow = _Experience()
    slow.add(tried=10, failed=0, seconds=1.0)
    slow.add(tried=10, failed=0, seconds=50.0)  # something else ran meanwhile
    assert slow.seconds == 2.25
    every = _Experience()
    every.add(tried=4, failed=4, seconds=1.0)
    assert every.hoped_share() == 0.75


def test_where_pruning_paid_for_all_points_rounds_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short rounds show early that pruning does not pay, but cost time where it does."""
    lookup = hash_labels(100_000, 2000, 16)
    scores = simulated(5 * LINE, lookup, 2000, seed=4)
    decoder = Decoder(lookup, 2000)
    decoder.prepare()
    monkeypatch.setattr(decoder._dense.tuner, "expected_seconds", lambda n_points, _: 10.0 * n_points)
    rounds: list[int] = []
    search = decoder._pruned._prune
    monkeypatch.setattr(decoder._pruned, "_prune", lambda *some: rounds.append(len(some[3])) or search(*some))
    plain = decoder.top_k(scores, 5, method="reference")
    for expected in ([4, 8, 16, 32, 64, 128, 68], [64, 256]):
        rounds.clear()
        assert_same(decoder.top_k(scores, 5), plain)
        assert rounds == expected


def test_where_pruning_paid_it_is_not_given_up_for_errors_of_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    lookup = hash_labels(100_000, 2000, 16)
    scores = simulated(5 * LINE, lookup, 2000, seed=4)
    decoder = Decoder(lookup, 2000)
    decoder.prepare()
    search = decoder._pruned
    per_point = {"scan": 10.0}
    monkeypatch.setattr(decoder._dense.tuner, "expected_seconds", lambda n, _: n * per_point["scan"])
    decoder.top_k(scores, 5)
    experience = search._experience[16]
    assert experience.all_tried
    monkeypatch.setattr(experience, "add", lambda *_, **__: None)  # nothing more is learnt
    experience.tried, experience.failed, experience.seconds = 100.0, 0.0, 100.0  # a second per point, none fails
    for scan, all_tried in ((0.95, True), (0.85, False), (0.95, False)):
        per_point["scan"], experience.rest = scan, 0
        decoder.top_k(scores, 5)
        assert experience.all_tried is all_tried
