"""Which rows of table.csv are one configuration: never rows on different data, or evaluated otherwise."""

from __future__ import annotations

from typing import Any

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from bench.report.groups import grouped
from bench.report.tables import build_tables
from bench.results.table import rows_to_frame

ROW = {"experiment": "e", "run_id": "r", "status": "ok", "method": "m", "dataset": "d", "seed": 0, "P@1": 0.5}


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return rows_to_frame([ROW | {"run_id": f"r{at}"} | row for at, row in enumerate(rows)])


def test_rows_on_different_data_are_of_different_datasets() -> None:
    old = {"data_fingerprint": "aaaa1111", "P@1": 0.2}
    new = {"data_fingerprint": "bbbb2222", "P@1": 0.8}
    (configuration,) = grouped(frame(old, old | {"seed": 1}))
    assert configuration.dataset == "d"
    found = {group.dataset: group.mean("P@1") for group in grouped(frame(old, new))}
    assert found == {"d [data aaaa11]": 0.2, "d [data bbbb22]": 0.8}
    quality, cost = build_tables(frame(old, new))
    assert "d [data aaaa11]" in quality.title
    assert len(cost.rows) == 2


def test_rows_that_are_evaluated_otherwise_are_of_different_datasets() -> None:
    same = {"data_fingerprint": "aaaa1111"}
    found = [
        group.dataset
        for group in grouped(
            frame(same, same | {"evaluation_fingerprint": "1234567"}, same | {"evaluation_fingerprint": "89abcdef"})
        )
    ]
    assert found == [
        "d [data aaaa11, evaluation not recorded]",
        "d [data aaaa11, evaluation 123456]",
        "d [data aaaa11, evaluation 89abcd]",
    ]


def test_runs_that_failed_early_are_of_the_newest_data() -> None:
    failed = {"status": "crashed", "P@1": None, "method": "broken"}
    groups = grouped(frame({"data_fingerprint": "aaaa1111"}, {"data_fingerprint": "bbbb2222"}, failed))
    assert [group.dataset for group in groups if group.method == "broken"] == ["d [data bbbb22]"]
    assert [group.dataset for group in grouped(frame(failed))] == ["d"]


def test_random_splits_are_one_dataset_unless_their_data_change() -> None:
    splits = [{"dataset.split": at, "data_fingerprint": f"{at}"} for at in range(3)]
    (group,) = grouped(frame(*splits))
    assert (group.dataset, len(group.rows)) == ("d", 3)
    again = [split | {"data_fingerprint": f"new {split['dataset.split']}"} for split in splits[:2]]
    found = {group.dataset: len(group.rows) for group in grouped(frame(*splits, *again))}
    assert found == {"d [version 1]": 3, "d [version 2]": 2}


def test_a_setting_without_a_column_of_the_contract_distinguishes_runs() -> None:
    """Two runs of one seed that differ in the rate alone, which was not swept in either."""
    slow, fast = {"lr": 0.01, "P@1": 0.2}, {"lr": 0.1, "P@1": 0.8}
    found = {group.settings["lr"]: group.mean("P@1") for group in grouped(frame(slow, fast))}
    assert found == {0.01: 0.2, 0.1: 0.8}
    (group,) = grouped(frame(slow, slow | {"seed": 1}, fast | {"status": "crashed", "seed": 2}))
    assert "lr" not in group.settings  # no two runs of one seed
    assert len(group.rows) == 3


def test_of_equal_rows_the_later_counts() -> None:
    (group,) = grouped(frame({"P@1": 0.2}, {"P@1": 0.8}))
    assert group.mean("P@1") == 0.8


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["x", None]), st.integers(0, 2), st.booleans()), max_size=12
    )
)
def test_no_configuration_mixes_data(runs: list[tuple[str, str | None, int, bool]]) -> None:
    rows = [
        {"data_fingerprint": data, "evaluation_fingerprint": evaluation, "seed": seed}
        if done
        else {"status": "crashed", "seed": seed}
        for data, evaluation, seed, done in runs
    ]
    for group in grouped(frame(*rows)) if rows else []:
        assert len({(row["data_fingerprint"], row.get("evaluation_fingerprint")) for row in group.ok}) <= 1
