"""A sweep of 200 runs, and one over K: readable, quick, without torch. Its numbers are formulae, not measurements."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text
from scipy.optimize import nnls

from bench.report.figures import Picture, build_figures
from bench.report.figures.against_labels import affine_fit, labels_of
from bench.report.figures.drawing.labels import SIZE
from bench.report.figures.drawing.style import NAMED
from bench.report.groups import grouped
from bench.report.tables import build_tables
from bench.results.table import load_results, rows_to_frame

ROOT = Path(__file__).resolve().parents[3]
Rows = list[dict[str, Any]]
K, N_FEATURES, HIDDEN = 131_073, 40_000, 128
P1 = {
    "full_softmax": 0.41,
    "one_vs_all": 0.402,
    "sampled_softmax": 0.395,
    "sampled_softmax_tf_2019": 0.31,
    "adaptive_softmax": 0.388,
    "bottleneck": 0.365,
    "label_frequency": 0.01,
    "nearest_neighbours": 0.37,
    "omikuji_parabel": 0.418,
    "omikuji_bonsai": 0.421,
    "napkinxc_plt": 0.405,
    "pecos_xrlinear": 0.415,
}
PEERS = ("nearest_neighbours", "omikuji_parabel", "omikuji_bonsai", "napkinxc_plt", "pecos_xrlinear")


def base(method: str, run_id: str, seed: int, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"experiment": "sweep", "run_id": run_id, "status": "ok", "method": method, "seed": seed}
    row |= {"dataset": "made-up", "data_fingerprint": "0f1e2d3c", "env_id": "e1a2b3", "precision": "fp32"}
    row |= {"device": "cpu", "hidden": HIDDEN, "epochs": 8, "batch_size": 256}
    row |= {"n_train": 294_805, "n_test": 134_835, "n_features": N_FEATURES, "n_labels": K}
    return row | more


def quality(p1: float) -> dict[str, float]:
    shape = {"P@1": 1.0, "P@3": 0.7, "P@5": 0.5, "nDCG@1": 1.0, "nDCG@3": 0.9, "nDCG@5": 0.92, "PSP@1": 0.6}
    shape |= {"PSP@3": 0.62, "PSP@5": 0.66, "R@5": 0.8, "minP@3": 0.85, "minP@5": 0.9}
    shape |= {"P@1_head": 0.4, "P@1_torso": 0.45, "P@1_tail": 0.15}
    shape |= {"R@5_head": 1.9, "R@5_torso": 1.5, "R@5_tail": 0.8}
    return {name: min(1.0, p1 * factor) for name, factor in shape.items()}


def network(outputs: int, repetitions: int = 1) -> dict[str, int]:
    entering, leaving = (N_FEATURES + 1) * HIDDEN * repetitions, (HIDDEN + 1) * outputs * repetitions
    size = {"params_input": entering, "params_hidden": 0, "params_output": leaving}
    return size | {"params_total": entering + leaving, "params_per_repetition": (entering + leaving) // repetitions}


def sweep_rows() -> Rows:
    """200 runs: MACH at 7 B, 3 rates and 3 seeds to R = 32, 12 other methods, and what ran out of memory."""
    rows: Rows = []
    for seed in range(3):
        for B in (64, 128, 256, 512, 1024, 2048, 4096):
            for lr in (0.005, 0.01, 0.02):
                trained = f"mach-made-up-B{B}-R32-lr{lr}-s{seed}"
                best = 0.43 - 0.12 * (64 / B) ** 0.5 - 3 * abs(lr - 0.01) + 0.001 * seed
                for R in range(1, 33):
                    p1 = best * (1 - (0.94 + 0.0003 * seed) * (64 / B / 1.6) ** 0.3 * 0.75 ** (R - 1))
                    more: dict[str, Any] = {"B": B, "R": R, "loss": "bce", "decoder": "logit_sum"}
                    more |= {"methods.mach.B": B, "methods.mach.lr": lr, "index_bytes": 2 * K * R}
                    more |= network(B, R) | quality(p1) | {"unresolved_pairs": round(K * (K - 1) / 2 * B**-R)}
                    more |= {"fit_s": (4.0 + B / 300) * R if R % 8 == 0 else None}
                    if R == 32:
                        more |= {"peak_host_bytes": 900_000_000 + 60_000 * B, "predict_s": 12.0 + B / 500}
                        more |= {"predicted_peak_bytes": 880_000_000 + 60_000 * B}
                    else:
                        more |= {"derived_from": trained}
                    rows.append(base("mach", trained if R == 32 else f"{trained}@R{R}", seed, **more))
        for method, p1 in P1.items():
            for lr in (0.005, 0.01, 0.02):
                p = p1 - 2 * abs(lr - 0.01) + 0.002 * seed if p1 > 0.1 else p1
                more = quality(p) | {f"methods.{method}.lr": lr}
                more |= {"fit_s": 40 + 900 * p1 * (method != "label_frequency"), "predict_s": 3 + 20 * p1}
                more |= {"peak_host_bytes": 1_200_000_000 + 5_000_000 * len(method) ** 2}
                if method in PEERS:
                    more |= {
                        "params_output": 9_000_000 + 400_000 * len(method),
                        "model_bytes": 90_000_000,
                        "epochs": None,
                    }
                elif method != "label_frequency":
                    more |= network(K // (4 if method == "bottleneck" else 1)) | {"index_bytes": 0}
                rows.append(base(method, f"{method}-made-up-lr{lr}-s{seed}", seed, **more))
        for i, B in enumerate((8192, 16_384, 32_768)):
            more = {"B": B, "R": 32, "status": "oom_host", "reason": "fit: killed", "n_labels": None}
            more |= {"predicted_peak_bytes": 14_000_000_000 * 2**i} | (network(B, 32) if i else {})
            rows.append(base("mach", f"mach-made-up-B{B}-R32-s{seed}", seed, **more))
    for i in range(20):
        more = quality(0.33 + 0.002 * i) | network(512, i + 1) | {"B": 512, "R": i + 1, "methods.mach.B": 512}
        more |= {"methods.mach.lr": 0.04, "loss": "softmax", "decoder": "mean", "index_bytes": 2 * K * (i + 1)}
        rows.append(base("mach", f"mach-made-up-softmax-R{i + 1}", 0, **more, fit_s=5.0 * i + 5))
    return rows


def k_rows() -> Rows:
    """Full and sampled softmax and MACH at two B, K from 1e4 to 1e8; a full output layer stops fitting on the way."""
    rows: Rows = []
    for K in (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000):
        for method, B, R in (
            ("full_softmax", None, None),
            ("sampled_softmax", None, None),
            ("mach", 1024, 8),
            ("mach", 4096, 16),
        ):
            size = network(B or K, R or 1) | {"index_bytes": 2 * K * R if R else 0}
            peak = 400_000_000 + 12 * size["params_total"] + 3 * size["index_bytes"]
            more = {
                "B": B,
                "R": R,
                "n_labels": K,
                "dataset.n_labels": K,
                "predicted_peak_bytes": peak,
                "loss": "softmax",
            }
            run_id = f"{method}-made-up-K{K}-B{B}"
            if peak > 24 * 2**30:
                more |= {"status": "oom_host", "reason": "fit: killed", "n_labels": None}
                rows.append(base(method, run_id, 0, **more))
                continue
            slow = {"full_softmax": 2e-3, "sampled_softmax": 2e-4, "mach": 3e-5}[method]
            more |= quality(0.4) | size | {"peak_host_bytes": round(1.05 * peak)}
            more |= {"fit_s": 20 + slow * K + (R or 0) * (B or 0) / 400, "predict_s": 2 + 134_835 * K * slow / 1e5}
            rows.append(base(method, run_id, 0, **more))
    return rows


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, write: Any) -> Path:
    rows = sweep_rows()
    assert len({row["run_id"].partition("@")[0] for row in rows}) == 200
    return write(tmp_path_factory.mktemp("sweep"), rows)


@pytest.fixture(scope="module")
def pictures(sweep: Path) -> dict[str, Picture]:
    return {p.name: p for p in build_figures(load_results(sweep), sweep / "runs")}


@pytest.fixture(scope="module")
def over_k() -> dict[str, Picture]:
    return {p.name: p for p in build_figures(rows_to_frame(k_rows()))}


@pytest.mark.slow
@pytest.mark.soak
def test_figure_and_report_of_a_sweep_load_no_torch(sweep: Path) -> None:
    program = (
        "import sys\n"
        "from bench.__main__ import app\n"
        "for verb in ('figure', 'report'):\n"
        f"    app([verb, 'synthetic', '--results', {str(sweep.parent)!r}], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    drawn = {path.stem for path in (sweep / "figures").glob("*.png")}
    assert len(drawn) == 10
    assert (sweep / "report.html").read_text().count("<svg") == 10


def test_a_sweep_is_bold_on_the_front_and_faint_behind(pictures: dict[str, Picture]) -> None:
    """Of 72 configurations without R and 22 curves, the figure shows the front and the best of each method opaque."""
    for name in ("p1_against_output_parameters", "p1_against_bytes"):
        figure = pictures[name].figure
        assert figure is not None
        (top, *_) = figure.axes
        front = sum(bool(row.get("on_front")) for row in pictures[name].rows)
        faint = [line for line in top.lines if line.get_linestyle() == "None" and (line.get_alpha() or 1) < 1]
        opaque = [line for line in top.lines if line.get_linestyle() == "None" and line.get_alpha() == 1]
        shown = sum(len(line.get_xdata()) for line in opaque)  # type: ignore[arg-type]
        assert front <= shown <= front + len(P1)
        assert sum(len(line.get_xdata()) for line in faint) > 5 * shown  # type: ignore[arg-type]


def test_no_two_labels_of_a_sweep_overlap(pictures: dict[str, Picture]) -> None:
    for picture in pictures.values():
        if picture.figure is None:
            continue
        renderer = FigureCanvasAgg(picture.figure).get_renderer()
        for ax in picture.figure.axes:
            shown = [text for text in ax.texts if text.get_text()]
            for text in shown:
                if isinstance(text, Annotation):
                    text.update_positions(renderer)
            boxes = [Text.get_window_extent(text, renderer).expanded(1.0, 0.9) for text in shown]  # without leaders
            for i, box in enumerate(boxes):
                for j in range(i):
                    assert not box.overlaps(boxes[j]), (picture.name, shown[i].get_text(), shown[j].get_text())


def test_every_method_of_a_sweep_is_labelled_somewhere_in_each_picture(pictures: dict[str, Picture]) -> None:
    for name in ("p1_against_r", "p1_against_peak_memory", "p1_against_bytes", "head_torso_tail"):
        figure = pictures[name].figure
        assert figure is not None
        written = [text.get_text() for ax in figure.axes for text in (*ax.texts, *ax.get_yticklabels())]
        for method in P1:
            assert any(words.startswith(method) for words in written), (name, method)


def test_every_method_of_the_project_has_its_own_style() -> None:
    shipped = {path.stem for path in (ROOT / "configs" / "method").glob("*.yaml")}
    assert shipped <= set(NAMED)
    assert len({(look.marker, look.line) for look in NAMED.values()}) == len(NAMED), "distinct without colour"
    assert SIZE >= 7, "points, at a width of 6.4 inches"


def test_head_torso_and_tail_add_up(pictures: dict[str, Picture]) -> None:
    picture = pictures["head_torso_tail"]
    for row in picture.rows:
        parts = [row[f"P@1_{part}_percent_mean"] for part in ("head", "torso", "tail")]
        assert sum(parts) == pytest.approx(row["P@1_percent_mean"])
    best = max((r for r in sweep_rows() if r["method"] == "full_softmax"), key=lambda r: r["P@1"])
    (own,) = [row for row in picture.rows if row["method"] == "full_softmax"]
    assert own["R@5_tail_percent_mean"] == pytest.approx(100 * best["R@5_tail"], abs=0.4)


def test_cost_against_labels_is_the_measured_and_the_fitted(over_k: dict[str, Picture]) -> None:
    rows = k_rows()
    picture = over_k["cost_against_labels"]
    assert picture.figure is not None
    measured = [r for r in picture.rows if r["kind"] == "measured" and r["panel"] == "params_output"]
    assert {(r["method"], r["B"], r["K"]) for r in measured} == {
        (r["method"], r["B"], r["n_labels"]) for r in rows if r["status"] == "ok"
    }
    fits = {(r["panel"], r["method"], r["B"]): r for r in picture.rows if r["kind"] == "fit"}
    full = fits[("params_output", "full_softmax", None)]
    assert (full["slope_per_label"], full["constant"]) == (
        pytest.approx((HIDDEN + 1) * 1e-6),
        pytest.approx(0, abs=1e-3),
    )
    assert full["r_squared_of_logs"] == pytest.approx(1)
    hashed = fits[("params_output", "mach", 1024)]
    assert hashed["slope_per_label"] * 1e8 == pytest.approx(0, abs=1e-6), "buckets cost the same for any K"
    index = fits[("model_bytes", "mach", 4096)]
    assert index["slope_per_label"] * 2**20 == pytest.approx(2 * 16)
    lost = [r for r in picture.rows if r["kind"] == "oom_host"]
    assert {(r["method"], r["K"]) for r in lost} == {
        (r["method"], r["dataset.n_labels"]) for r in rows if r["status"] != "ok"
    }
    assert lost[0]["mean"] > 24 * 1024
    decoding = over_k["decode_time_against_labels"]
    slope = next(r["slope_per_label"] for r in decoding.rows if r["kind"] == "fit" and r["method"] == "full_softmax")
    assert slope == pytest.approx(1e3 * 2e-3 / 1e5)  # milliseconds a query


def test_each_size_of_a_dataset_has_its_own_figures(over_k: dict[str, Picture]) -> None:
    names = list(over_k)
    assert "p1_against_r_made-up-n-labels-10000" in names
    assert "cost_against_labels" in names
    assert len(names) == 5 * 10 + 2


def test_each_size_of_a_dataset_is_compared_by_itself() -> None:
    """The best of a column and the reference of a ratio are those of the same number of labels."""
    df = rows_to_frame(k_rows())
    sizes = list(dict.fromkeys(f"made-up n_labels {row['dataset.n_labels']}" for row in k_rows()))
    assert list(dict.fromkeys(group.dataset for group in grouped(df))) == sizes
    quality, cost = build_tables(df)
    assert quality.title == f"Quality on {', '.join(sizes)}"
    assert "dataset.n_labels" not in [head.name for head in quality.heads]
    at, best = ([head.name for head in quality.heads].index(name) for name in ("dataset", "P@1"))
    assert {line[at].value for line in quality.rows if line[best].best} == set(sizes)
    own, ratio = ([head.name for head in cost.heads].index(name) for name in ("method", "params_output_relative"))
    full = [line for line in cost.rows if line[own].value == "full_softmax"]
    assert {line[ratio].value for line in full if line[ratio].value is not None} == {1.0}


def test_labels_of_failed_runs_are_those_of_the_data() -> None:
    groups = grouped(rows_to_frame(k_rows()))
    found = labels_of(groups)
    assert all(found[id(group)] == group.rows[0]["dataset.n_labels"] for group in groups)


def test_a_caption_says_when_more_than_k_differs(over_k: dict[str, Picture]) -> None:
    scaled = [row | {"n_features": row["dataset.n_labels"]} for row in k_rows()]
    picture = next(p for p in build_figures(rows_to_frame(scaled)) if p.name == "cost_against_labels")
    words = "besides K, the numbers of points or features differ too"
    assert words in picture.caption
    assert words not in over_k["cost_against_labels"].caption


def test_two_values_of_k_are_too_few() -> None:
    few = [row for row in k_rows() if row["dataset.n_labels"] <= 100_000]
    picture = next(p for p in build_figures(rows_to_frame(few)) if p.name == "cost_against_labels")
    assert picture.figure is None
    assert picture.reason == "finished runs have 2 values of K; a line needs 3"


@given(
    constant=st.floats(0, 1e6),
    slope=st.floats(0, 1e3),
    xs=st.lists(st.integers(1, 10**8), min_size=3, max_size=8, unique=True),
)
def test_a_line_is_found_again(constant: float, slope: float, xs: list[int]) -> None:
    ys = [constant + slope * x for x in xs]
    assume(min(ys) > 1e-6)
    found = affine_fit(xs, ys)
    assert found[0] >= 0
    assert found[1] >= 0
    assert [found[0] + found[1] * x for x in xs] == pytest.approx(ys, rel=1e-6)


@given(ys=st.lists(st.floats(0.1, 1e4), min_size=3, max_size=6))
def test_a_fitted_line_is_never_below_zero_and_the_best_of_those(ys: list[float]) -> None:
    xs = [10.0**i for i in range(len(ys))]
    constant, slope, _ = affine_fit(xs, ys)

    def error(a: float, b: float) -> float:
        return sum(((a + b * x) / y - 1) ** 2 for x, y in zip(xs, ys, strict=True))

    assert min(constant, slope) >= 0
    best, _ = nnls(np.array([[1 / y, x / y] for x, y in zip(xs, ys, strict=True)]), np.ones(len(ys)))
    assert error(constant, slope) <= error(*best) * (1 + 1e-6) + 1e-9


def test_the_documentation_names_every_figure(pictures: dict[str, Picture]) -> None:
    table = (ROOT / "docs" / "figures.md").read_text().partition("| file |")[2].partition("\n\n")[0]
    assert [line.split("`")[1] for line in table.splitlines()[2:]] == list(pictures)
