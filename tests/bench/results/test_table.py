from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.columns import BY_NAME, COLUMNS, QUALITY, STATUS_WORDS, three_digits
from bench.common.errors import InputError
from bench.common.files import write_atomic
from bench.results.table import load_results, rows_to_frame, swept_columns, write_table

Rows = list[dict[str, Any]]
CONTRACT = [
    "experiment",
    "run_id",
    "status",
    "reason",
    "method",
    "dataset",
    "data_fingerprint",
    "seed",
    "env_id",
    "derived_from",
    "B",
    "R",
    "hidden",
    "epochs",
    "batch_size",
    "loss",
    "decoder",
    "precision",
    "device",
    "n_train",
    "n_test",
    "n_features",
    "n_labels",
    "P@1",
    "P@3",
    "P@5",
    "nDCG@1",
    "nDCG@3",
    "nDCG@5",
    "PSP@1",
    "PSP@3",
    "PSP@5",
    "R@5",
    "minP@3",
    "minP@5",
    "params_total",
    "params_input",
    "params_hidden",
    "params_output",
    "params_per_repetition",
    "index_bytes",
    "peak_host_bytes",
    "peak_gpu_allocated_bytes",
    "peak_gpu_reserved_bytes",
    "predicted_peak_bytes",
    "load_s",
    "build_s",
    "warmup_s",
    "fit_s",
    "predict_s",
    "device_seconds",
    "elapsed_s",
    "examples_per_s",
]
SMALL = {"experiment": "e", "run_id": "r", "status": "ok", "method": "m", "dataset": "d"}


def test_columns_are_those_of_the_contract_in_its_order() -> None:
    assert [c.name for c in COLUMNS if c.required] == CONTRACT
    assert set(STATUS_WORDS) == {
        "ok",
        "oom_host",
        "oom_device",
        "timeout",
        "diverged",
        "unsupported",
        "skipped_by_plan",
        "crashed",
        "interrupted",
    }
    assert all(BY_NAME[name].better == "higher" for name in QUALITY)


def test_missing_is_empty_and_never_zero(tmp_path: Path) -> None:
    df = rows_to_frame([SMALL | {"B": 1024, "fit_s": None, "P@1": math.nan, "reason": ""}, SMALL | {"fit_s": 0.0}])
    path = write_table(df, tmp_path / "table.csv")
    header, first, second = (line.split(",") for line in path.read_text().splitlines())
    found = dict(zip(header, first, strict=True))
    assert (found["B"], found["fit_s"], found["P@1"], found["reason"]) == ("1024", "", "", "")
    assert dict(zip(header, second, strict=True))["fit_s"] == "0.0"
    assert str(df["B"].dtype) == "Int64"


def test_round_trip_keeps_every_value_and_type(tmp_path: Path, rows: Rows) -> None:
    rows[0] |= {"train.lr": 1e-3, "reason": 'a "quoted", comma\nand a line', "method": "NA"}
    df = rows_to_frame(rows)
    write_table(df, tmp_path / "table.csv")
    back = load_results(tmp_path)
    pd.testing.assert_frame_equal(back, df)
    assert back.loc[0, "method"] == "NA"
    assert load_results(tmp_path / "table.csv").equals(back)


def test_swept_keys_pass_through_typed_between_settings_and_data(tmp_path: Path) -> None:
    swept = {"train.lr": 1e-3, "methods.mach.B": 256, "train.loss": "bce"}
    df = rows_to_frame([SMALL | swept, SMALL])
    assert list(df.columns).index("device") < list(df.columns).index("train.lr") < list(df.columns).index("n_train")
    write_table(df, tmp_path / "table.csv")
    back = load_results(tmp_path)
    assert swept_columns(back) == list(swept)
    assert back.loc[0, list(swept)].tolist() == [1e-3, 256, "bce"]
    assert str(back["methods.mach.B"].dtype) == "Int64"


def test_no_rows_at_all(tmp_path: Path) -> None:
    write_table(rows_to_frame([]), tmp_path / "table.csv")
    back = load_results(tmp_path)
    assert back.empty
    assert list(back.columns) == CONTRACT


def test_value_of_the_wrong_kind_names_its_column() -> None:
    with pytest.raises(InputError, match=r"'B'.*1024\.5.*whole number"):
        rows_to_frame([SMALL | {"B": 1024.5}])


Edit = Callable[[str], str]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.replace(",ok,", ",okay,", 1), ["line 2", "'status'", "'okay'", "oom_host"]),
        (lambda t: t.replace("0.872", "1.872", 1), ["line 2", "'P@1'", "'1.872'", "0 to 1"]),
        (lambda t: t.replace("0.872", "nan", 1), ["line 2", "'P@1'", "'nan'"]),
        (lambda t: t.replace("48236", "48x36", 1), ["line 2", "'n_train'", "'48x36'", "whole number"]),
        (lambda t: t.replace("48236", "-1", 1), ["line 2", "'n_train'", "'-1'", "0 or more"]),
        (lambda t: t.replace("61.0", "inf", 1), ["line 2", "'fit_s'", "'inf'", "(s)"]),
        (lambda t: t.replace("synthetic", "", 1), ["line 2", "'experiment'", "nothing"]),
        (lambda t: t.replace("fit_s", "fits", 1), ["line 1", "'fit_s'", "contract"]),
        (lambda t: t.replace("load_s", "fit_s", 1), ["line 1", "'fit_s' twice"]),
        (lambda t: t[:-1], ["cut short"]),
        (lambda t: t[: t.rindex(",")] + "\n", ["fields", "header"]),
        (lambda t: t + '"half', ["cut short"]),
        (lambda t: t + '"half\n', ["line 54", "broken or cut"]),
        (lambda _: "", ["empty file"]),
    ],
)
def test_broken_table_is_refused_with_the_place(experiment: Path, edit: Edit, words: list[str]) -> None:
    table = experiment / "table.csv"
    table.write_text(edit(table.read_text()))
    with pytest.raises(InputError) as caught:
        load_results(experiment)
    assert str(table) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"experiment,run_id\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"line 2.*UTF-8"):
        load_results(tmp_path)
    with pytest.raises(InputError, match="machbench run"):
        load_results(tmp_path / "nothing")


def test_a_byte_order_mark_and_line_ends_of_an_editor_change_nothing(experiment: Path) -> None:
    path = experiment / "table.csv"
    plain, raw = load_results(path), path.read_bytes()
    for start, end in ((b"\xef\xbb\xbf", b"\n"), (b"", b"\r\n"), (b"\xef\xbb\xbf", b"\r\n")):
        path.write_bytes(start + raw.replace(b"\n", end))
        pd.testing.assert_frame_equal(load_results(path), plain)
    path.write_bytes(raw + b"\n\r\n")
    pd.testing.assert_frame_equal(load_results(path), plain)
    path.write_bytes(raw.decode().encode("utf-16"))
    with pytest.raises(InputError, match=r"table\.csv, line 1: found UTF-16 text"):
        load_results(path)


def test_unknown_later_columns_are_kept(tmp_path: Path) -> None:
    write_table(rows_to_frame([SMALL | {"later_s": 2.5}]), tmp_path / "table.csv")
    assert load_results(tmp_path).loc[0, "later_s"] == 2.5


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 1), st.integers(0, 2**53), st.text(min_size=1).filter(lambda s: s.strip()))
def test_any_value_survives_the_file(tmp_path_factory: Any, p1: float, size: int, reason: str) -> None:
    folder = tmp_path_factory.mktemp("t")
    reason = reason.encode("utf-8", "ignore").decode() or "x"
    df = rows_to_frame([SMALL | {"P@1": p1, "params_total": size, "reason": reason}])
    write_table(df, folder / "table.csv")
    back = load_results(folder).loc[0]
    assert (back["P@1"], back["params_total"]) == (p1, size)
    assert back["reason"] == reason.replace("\r\n", "\n").replace("\r", "\n")


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomic(tmp_path / "deep" / "file.txt", "old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize(
    ("x", "shown"),
    [(0, "0.00"), (0.0312, "0.0312"), (4.194, "4.19"), (41.94, "41.9"), (999.7, "1,000"), (1234.5, "1,234")],
)
def test_three_digits(x: float, shown: str) -> None:
    assert three_digits(x) == shown


def test_readers_import_no_torch() -> None:
    modules = "bench.results.table, bench.report.tables, bench.report.figures, bench.report.html"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
