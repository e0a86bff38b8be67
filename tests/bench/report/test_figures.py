from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from bench.common.errors import InputError
from bench.report.figures import Picture, build_figures, write_figures
from bench.report.figures.drawing.labels import _spread
from bench.report.figures.drawing.panels import pareto, whole_and_top
from bench.report.figures.drawing.style import BLUE, NAMED, for_bucket_count, for_text, styles
from bench.report.figures.resolution import line_fit
from bench.report.model_size import model_bytes
from bench.results.run_folder import read_curve
from bench.results.table import load_results, rows_to_frame

Rows = list[dict[str, Any]]
Make = Callable[..., Rows]
NAMES = [
    "linear_cost_exponential_resolution",
    "p1_against_r",
    "p1_against_b_at_equal_rb",
    "p1_against_output_parameters",
    "p1_against_bytes",
    "p1_against_peak_memory",
    "learning_curves",
    "parameter_split",
    "wall_time_against_workers",
]
K, N_FEATURES = 46_881, 24_082  # as in conftest.py
NOT_DRAWN = ["head_torso_tail", "cost_against_labels", "decode_time_against_labels"]
MACHINE = {"cpu": "made-up CPU", "cores": 2, "memory_bytes": 2**36, "gpu": None}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as f:
        return list(csv.DictReader(f))


def drawing(rows: Rows, name: str, runs: Path | None = None) -> Picture:
    return next(p for p in build_figures(rows_to_frame(rows), runs) if p.name == name)


def one(rows: list[dict[str, str]], **want: Any) -> dict[str, str]:
    (found,) = [row for row in rows if all(row[k] == str(v) for k, v in want.items())]
    return found


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, make: Make, write: Any) -> tuple[Path, Rows]:
    rows = make(seeds=(0, 1, 2))
    experiment = write(tmp_path_factory.mktemp("drawn"), rows)
    (experiment.parent / "env" / "e1a2b3.json").write_text(json.dumps(MACHINE))
    write_figures(load_results(experiment), experiment / "figures")
    return experiment, rows


def test_every_figure_in_every_form(drawn: tuple[Path, Rows]) -> None:
    figures = drawn[0] / "figures"
    assert {p.name for p in figures.iterdir()} == {
        f"{n}.{e}" for n in NAMES for e in ("png", "pdf", "svg", "csv", "txt")
    } | {f"{n}.txt" for n in NOT_DRAWN}
    assert (figures / "p1_against_r.png").read_bytes().startswith(b"\x89PNG")
    assert (figures / "p1_against_r.pdf").read_bytes().startswith(b"%PDF")


def test_captions_state_data_seeds_and_environment(drawn: tuple[Path, Rows]) -> None:
    for name in NAMES:
        caption = (drawn[0] / "figures" / f"{name}.txt").read_text()
        for words in ("made-up", "12,132 test points", "n = 3 seeds", "environment e1a2b3"):
            assert words in caption


def test_drawing_twice_gives_equal_bytes(drawn: tuple[Path, Rows], tmp_path: Path) -> None:
    again = write_figures(load_results(drawn[0]), tmp_path, runs=drawn[0] / "runs")
    for path in again:
        assert path.read_bytes() == (drawn[0] / "figures" / path.name).read_bytes(), path.name


def test_plotted_p1_is_the_tables(drawn: tuple[Path, Rows]) -> None:
    plotted = read(drawn[0] / "figures" / "p1_against_r.csv")
    assert len(plotted) == 3 * 16 + 3  # B × R, and the methods without R
    p1 = [100 * row["P@1"] for row in drawn[1] if row.get("B") == 1024 and row.get("R") == 2]
    found = one(plotted, B=1024, R=2)
    assert float(found["P@1_percent_mean"]) == pytest.approx(np.mean(p1))
    assert float(found["P@1_percent_min"]) == pytest.approx(min(p1))
    assert float(found["P@1_percent_max"]) == pytest.approx(max(p1))
    assert found["n_seeds"] == "3"


def test_cost_is_a_straight_line_and_pairs_follow_theory(drawn: tuple[Path, Rows]) -> None:
    plotted = read(drawn[0] / "figures" / "linear_cost_exponential_resolution.csv")
    fit = one(plotted, panel="params_output", kind="fit", B=1024, R=16)
    assert float(fit["slope_per_repetition"]) == pytest.approx(1024 * 257)
    assert float(fit["intercept"]) == pytest.approx(0, abs=1e-3)
    assert float(fit["r_squared"]) == pytest.approx(1)
    seconds = one(plotted, panel="fit_s", kind="fit", B=4096, R=4)
    assert float(seconds["slope_per_repetition"]) == pytest.approx(5.0)
    assert {r["R"] for r in plotted if r["panel"] == "fit_s" and r["kind"] == "measured"} == {
        "4",
        "8",
        "12",
        "16",
    }
    for R in (1, 2, 16):
        expected = one(plotted, panel="unresolved_pairs", kind="expected", B=256, R=R)
        assert float(expected["mean"]) == pytest.approx(K * (K - 1) / 2 / 256**R)
    counted = one(plotted, panel="unresolved_pairs", kind="measured", B=256, R=2)
    assert float(counted["mean"]) == round(K * (K - 1) / 2 * 256**-2 * 1.01)


def test_every_csv_row_names_its_rows_of_the_table(drawn: tuple[Path, Rows]) -> None:
    known = {row["run_id"] for row in drawn[1]}
    for name in NAMES:
        for row in read(drawn[0] / "figures" / f"{name}.csv"):
            if row.get("kind") == "capacity":
                assert row["env_id"] == "e1a2b3"
                continue
            named = (row.get("run_ids") or row.get("run_id") or "").split()
            assert named, (name, row)
            assert set(named) <= known, (name, row)


FORMULAE = ("K(K−1)/2 · B^−R", "P@1", "R@5", "first 5", "1 to 5", "6 to 100", "factor of about 2", "e1a2b3", "point(s)")


def test_every_number_of_a_caption_is_in_the_table_or_the_csv(drawn: tuple[Path, Rows]) -> None:
    """Besides formulae and the names of metrics: counts as the table has them, fitted numbers as the csv has them."""
    table = {f"{row[c]:,}" for row in drawn[1] for c in ("n_train", "n_test", "n_labels", "B", "R") if row.get(c)}
    seeds = {str(len({row["seed"] for row in drawn[1]}))}
    machine = {"2", "64.0"}
    for name in NAMES:
        rows = read(drawn[0] / "figures" / f"{name}.csv")
        fitted = set()
        for row in rows:
            for scale in (1.0, 1e-6, 2**-20):
                if row.get("slope_per_repetition"):
                    fitted.add(f"{float(row['slope_per_repetition']) * scale:.3g}")
            if row.get("r_squared"):
                fitted.add(f"{float(row['r_squared']):.4f}")
        caption = (drawn[0] / "figures" / f"{name}.txt").read_text()
        for words in FORMULAE:
            caption = caption.replace(words, "")
        for number in re.findall(r"\d[\d,.]*\d|\d", caption):
            assert number in table | seeds | machine | fitted, (name, number)


def test_captions_name_the_machine(drawn: tuple[Path, Rows]) -> None:
    for name in NAMES:
        caption = (drawn[0] / "figures" / f"{name}.txt").read_text()
        assert "Machine: made-up CPU, 2 cores, 64.0 GiB (environment e1a2b3)." in caption


def test_an_environment_without_a_record_is_named_nevertheless(rows: Rows, tmp_path: Path) -> None:
    captions = [p.caption for p in build_figures(rows_to_frame(rows), tmp_path / "a" / "runs") if p.figure is not None]
    assert captions
    assert all("Environment e1a2b3, whose record is missing." in caption for caption in captions)


@pytest.mark.parametrize(
    ("content", "found"),
    [("{", "no JSON"), ("[1]", "a JSON list"), ('{"cores": "two"}', "'two' under 'cores'")],
)
def test_broken_environment_is_an_input_error(experiment: Path, content: str, found: str) -> None:
    (experiment.parent / "env" / "e1a2b3.json").write_text(content)
    with pytest.raises(InputError, match=rf"e1a2b3\.json.*{found}"):
        build_figures(load_results(experiment), experiment / "runs")


def test_a_gpu_is_named_where_runs_used_it(rows: Rows, experiment: Path) -> None:
    gpu = {"cpu": "made-up CPU", "cores": 8, "memory_bytes": 2**37, "gpu": "Made-up GPU, 81559 MiB, 550.54"}
    (experiment.parent / "env" / "e1a2b3.json").write_text(json.dumps(gpu))
    on_it = [row | {"device": "cuda", "peak_gpu_allocated_bytes": 2**33} for row in rows]
    picture = drawing(on_it, "p1_against_peak_memory", experiment / "runs")
    assert "made-up CPU, 8 cores, 128.0 GiB, GPU Made-up GPU, 79.6 GiB" in picture.caption
    measured = [row for row in picture.rows if row["kind"] == "measured"]
    assert {row["peak_bytes"] for row in measured} == {2**33}
    (capacity,) = [row["peak_bytes"] for row in picture.rows if row["kind"] == "capacity"]
    assert capacity == 81559 * 2**20
    # a method that keeps nothing there but the context is a level line
    idle = [row | {"peak_gpu_allocated_bytes": 512} if row["method"] == "label_frequency" else row for row in on_it]
    drawn = drawing(idle, "p1_against_peak_memory", experiment / "runs")
    assert {row["method"] for row in measured} - {row["method"] for row in drawn.rows if "method" in row} == {
        "label_frequency"
    }


def test_bytes_are_weights_and_index(drawn: tuple[Path, Rows]) -> None:
    plotted = read(drawn[0] / "figures" / "p1_against_bytes.csv")
    found = one(plotted, kind="measured", B=1024, R=2)
    each = N_FEATURES * 256 + 256 + 1024 * 257
    assert float(found["model_bytes"]) == 4 * 2 * each + 4 * K * 2
    linear = read(drawn[0] / "figures" / "linear_cost_exponential_resolution.csv")
    fit = one(linear, panel="model_bytes", kind="fit", B=1024, R=16)
    assert float(fit["slope_per_repetition"]) == pytest.approx(4 * each + 4 * K)
    assert float(fit["r_squared"]) == pytest.approx(1)


def test_bytes_of_half_precision_and_of_models_on_disk() -> None:
    sizes = {"params_total": 100, "params_output": 60, "index_bytes": 7}
    assert model_bytes(sizes) == 407
    assert model_bytes(sizes | {"weights": "bf16"}) == 4 * 40 + 2 * 60 + 7
    assert model_bytes(sizes | {"model_bytes": 33}) == 33
    assert model_bytes({"params_output": 60}) is None


def test_what_ran_out_of_memory_is_marked_at_its_size(drawn: tuple[Path, Rows]) -> None:
    for name, column, value in (
        ("p1_against_output_parameters", "params_output", 16 * 16_384 * 257),
        ("p1_against_bytes", "model_bytes", 4 * 16 * (N_FEATURES * 256 + 256 + 16_384 * 257)),
        ("p1_against_peak_memory", "peak_bytes", 3_400_000_000),
    ):
        found = one(read(drawn[0] / "figures" / f"{name}.csv"), kind="out of memory")
        assert (float(found[column]), found["B"]) == (value, "16384")
        assert "Crosses on the upper edge" in (drawn[0] / "figures" / f"{name}.txt").read_text()


def test_runs_out_of_memory_at_an_unknown_size_are_named(rows: Rows) -> None:
    bare = [row | {"predicted_peak_bytes": None} if row["status"] != "ok" else row for row in rows]
    picture = drawing(bare, "p1_against_peak_memory")
    assert not [row for row in picture.rows if row["kind"] == "out of memory"]
    assert "at an unknown size: mach B = 16,384, R = 16." in picture.caption


def test_equal_rb_by_brute_force(drawn: tuple[Path, Rows]) -> None:
    plotted = read(drawn[0] / "figures" / "p1_against_b_at_equal_rb.csv")
    cells = [(B, R) for B in (256, 1024, 4096) for R in range(1, 17)]
    products = [B * R for B, R in cells]
    wanted = {(str(B * R), str(B), str(R)) for B, R in cells if products.count(B * R) > 1}
    assert {(row["R_times_B"], row["B"], row["R"]) for row in plotted} == wanted
    p1 = [100 * row["P@1"] for row in drawn[1] if row.get("B") == 1024 and row.get("R") == 4]
    assert float(one(plotted, B=1024, R=4)["P@1_percent_mean"]) == pytest.approx(np.mean(p1))


def test_parameters_are_split_as_the_table_has_them(drawn: tuple[Path, Rows]) -> None:
    plotted = read(drawn[0] / "figures" / "parameter_split.csv")
    found = one(plotted, method="mach", B=1024)
    assert [float(found[f"params_{part}"]) for part in ("input", "hidden", "output", "total")] == [
        16 * (N_FEATURES * 256 + 256),
        0,
        16 * 1024 * 257,
        16 * (N_FEATURES * 256 + 256 + 1024 * 257),
    ]
    assert one(plotted, B=16384)["status"] == "oom_host"
    assert {row["method"] for row in plotted} == {"mach", "full_softmax", "sampled_softmax"}


def test_front_by_brute_force(drawn: tuple[Path, Rows]) -> None:
    plotted = read(drawn[0] / "figures" / "p1_against_output_parameters.csv")
    measured = [r for r in plotted if r["kind"] == "measured"]
    points = [(float(r["params_output"]), float(r["P@1_percent_mean"]), r["on_front"]) for r in measured]
    for cost, quality, on_front in points:
        beaten = any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q, _ in points)
        assert on_front == str(not beaten)


def test_pareto_drops_ties() -> None:
    assert pareto([(2.0, 5.0), (1.0, 5.0), (3.0, 6.0), (1.0, 4.0)]) == [1, 2]


def test_learning_curves_are_the_runs_curves(drawn: tuple[Path, Rows]) -> None:
    plotted = read(drawn[0] / "figures" / "learning_curves.csv")
    kept = read(drawn[0] / "runs" / "full_softmax-made-up-s1-aa11bb" / "curve.csv")
    wanted = [(float(r["fit_s"]), float(r["P@1"])) for r in kept if r["P@1"]]
    found = [(float(r["fit_s"]), float(r["P@1"])) for r in plotted if r["run_id"].startswith("full_softmax-made-up-s1")]
    assert found == wanted
    assert {r["repetitions"] for r in plotted if r["B"] == "256"} == {"0-3", "4-7", "8-11", "12-15"}


def test_absent_data_give_a_reason_and_no_picture(tmp_path: Path, rows: Rows) -> None:
    only = [row for row in rows if row["method"] == "label_frequency"]
    pictures = build_figures(rows_to_frame(only), tmp_path)
    assert {p.name for p in pictures} == {*NAMES, *NOT_DRAWN}
    assert all(p.figure is None and p.reason for p in pictures if p.name != "p1_against_peak_memory")
    paths = write_figures(rows_to_frame(only), tmp_path)
    assert {p.suffix for p in paths if p.stem != "p1_against_peak_memory"} == {".txt"}
    assert "Not drawn: no finished run of a method with B and R" in (tmp_path / "p1_against_r.txt").read_text()


def test_hashed_rows_without_sizes_are_left_out_of_the_size_picture(rows: Rows) -> None:
    bare = [row | {"params_output": None} if row.get("B") == 256 else row for row in rows]
    picture = drawing(bare, "p1_against_output_parameters")
    assert {row["B"] for row in picture.rows if row["kind"] == "measured"} == {None, 1024, 4096}


def test_each_of_several_datasets_gets_a_set(rows: Rows) -> None:
    other = [row | {"dataset": "other/one"} for row in rows]
    names = [p.name for p in build_figures(rows_to_frame(rows + other))]
    assert "p1_against_r_made-up" in names
    assert "p1_against_r_other-one" in names
    assert len(names) == len(set(names)) == 2 * 10 + 2


def test_one_figure_is_drawn_as_among_all(drawn: tuple[Path, Rows], tmp_path: Path) -> None:
    df, runs = load_results(drawn[0]), drawn[0] / "runs"
    paths = write_figures(df, tmp_path, runs, only="p1_against_bytes")
    assert {path.stem for path in paths} == {"p1_against_bytes"}
    for path in paths:
        assert path.read_bytes() == (drawn[0] / "figures" / path.name).read_bytes()
    with pytest.raises(InputError, match=r"unknown figure 'p1_against_byte'.*p1_against_bytes"):
        build_figures(df, runs, only="p1_against_byte")


def test_a_broken_curve_is_left_out_and_named(experiment: Path) -> None:
    run = "full_softmax-made-up-s0-aa11bb"
    path = experiment / "runs" / run / "curve.csv"
    path.write_text(path.read_text().replace("2,", "two,", 1))
    with pytest.raises(InputError, match=r"curve\.csv, line 3: found 'two' in column 'epoch'"):
        read_curve(path)
    curves = build_figures(load_results(experiment), experiment / "runs", only="learning_curves")[0]
    assert run not in {row["run_id"] for row in curves.rows}
    assert curves.rows
    assert f"Left out, because their curve.csv cannot be read: {run}." in curves.caption


def test_runs_that_were_never_validated_have_no_curve_to_draw(experiment: Path) -> None:
    """``validate_every: 0`` and ``holdout: false`` leave a curve.csv without the column P@1."""
    for path in (experiment / "runs").glob("*/curve.csv"):
        path.write_text("repetitions,epoch,fit_s,train_loss\n,1,2.0,3.0\n")
    pictures = build_figures(load_results(experiment), experiment / "runs")
    (picture,) = [p for p in pictures if p.name == "learning_curves"]
    assert picture.figure is None


def test_fewer_values_of_r_than_a_line_needs() -> None:
    assert line_fit([4.0], [1.0]) is None
    assert line_fit([1.0, 2.0], [3.0, 5.0]) == (pytest.approx(2.0), pytest.approx(1.0), None)
    fit = line_fit([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    assert fit is not None
    assert fit[2] == pytest.approx(np.corrcoef([1, 2, 3], [1, 2, 4])[0, 1] ** 2)


def test_the_style_of_a_method_does_not_depend_on_other_methods() -> None:
    alone, together = styles(["full_softmax"]), styles(["full_softmax", "mach", "zzz", "aaa"])
    assert alone["full_softmax"] == together["full_softmax"] == NAMED["full_softmax"]
    assert len({(s.color, s.marker, s.line) for s in together.values()}) == 4


def test_bucket_counts_differ_in_marker_and_in_grey() -> None:
    looks = [for_bucket_count(NAMED["mach"], i, 4) for i in range(4)]
    assert len({look.marker for look in looks}) == 4
    greys = [sum(to_rgb(look.color)) for look in looks]
    assert greys == sorted(greys, reverse=True)
    assert for_bucket_count(NAMED["mach"], 0, 1).color == BLUE


def test_text_colours_are_legible() -> None:
    assert for_text("#000000") == "#000000"
    assert sum(to_rgb(for_text("#e69f00"))) < sum(to_rgb("#e69f00"))


def test_labels_are_spread_apart_in_order() -> None:
    placed = _spread([20.0, 21.0, 21.0, 70.0], 10.0, low=0.0, high=100.0)
    assert placed[3] == 70.0
    assert np.diff(placed[:3]).tolist() == pytest.approx([10.0, 10.0])
    assert sum(placed[:3]) == pytest.approx(62.0)  # moved as little as can be: their mean stays
    assert _spread([95.0, 99.0], 10.0, low=0.0, high=100.0) == [90.0, 100.0]


def test_the_second_panel_shows_more_than_a_level_line() -> None:
    """A method without a size or R may be far above all points; then the panel shows the points."""
    _, axes = whole_and_top([2.0, 30.0, 38.0, 41.0, 56.0], main=[30.0, 38.0, 41.0])
    assert axes[1].get_ylim() == (31.0, 42.0)
    assert "level line" in axes[1].get_title()
    _, axes = whole_and_top([2.0, 30.0, 41.0, 43.0], main=[30.0, 41.0])
    assert axes[1].get_ylim() == (33.0, 44.0)
    assert axes[1].get_title() == "The top 10 points of the same scale"
