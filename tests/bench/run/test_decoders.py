"""One trained model, several ways of decoding: a row for each, and the table says which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from command_line import machbench, write_experiment

from bench.columns import QUALITY
from bench.report.tables import build_tables
from bench.results.table import load_results
from mach.decode.estimators import ESTIMATORS
from mach.decode.ranking import SLICE_BYTES, BucketRanker, Query, bucket_scores
from mach.decode.reference import top_k_reference
from mach.layer.output import MachOutput

EXPERIMENT = """
dataset: tiny
train: {hidden: 16, epochs: 2, batch_size: 64, lr: 0.02}
methods:
  several: {method: mach, B: 32, R: 3, estimator: ESTIMATORS}
  alone: {method: mach, B: 32, R: 3, estimator: mean}
"""


@pytest.mark.slow
@pytest.mark.soak
def test_a_run_with_several_estimators_has_a_row_for_each(tmp_path: Path) -> None:
    names = list(ESTIMATORS)
    machbench("run", write_experiment(tmp_path, EXPERIMENT.replace("ESTIMATORS", "+".join(names))), cwd=tmp_path)
    df = load_results(tmp_path / "results" / "small")
    several = df[df.method == "several"]
    assert sorted(zip(several.decoder, several.R, strict=True)) == sorted((d, R) for d in names for R in (1, 2, 3))
    assert several.run_id.is_unique
    own = several[several.derived_from.isna()]
    assert own[["decoder", "R"]].values.tolist() == [["logit_sum", 3]]
    assert own.predict_s.notna().all()
    assert several[several.derived_from.notna()].predict_s.isna().all()
    # The same model decoded by the mean alone gives the same numbers: the estimators do not get in each other's way.
    alone = df[df.method == "alone"].sort_values("R")
    mean = several[several.decoder == "mean"].sort_values("R")
    np.testing.assert_array_equal(mean[list(QUALITY)].to_numpy(), alone[list(QUALITY)].to_numpy())
    unbiased = several[several.decoder == "unbiased"].sort_values("R")
    np.testing.assert_allclose(unbiased["P@1"], mean["P@1"])  # an affine map keeps the ranking
    assert several.groupby("decoder")["P@5"].max().nunique() > 2
    quality, _ = build_tables(df)
    assert any(head.name == "decoder" for head in quality.heads)
    assert {cell.value for row in quality.rows for cell in row} >= set(names)
    machbench("score", "small.yaml", cwd=tmp_path)
    again = load_results(tmp_path / "results" / "small")
    np.testing.assert_array_equal(again[list(QUALITY)].to_numpy(), df[list(QUALITY)].to_numpy())


def layer(estimator: str, loss: str) -> MachOutput:
    labels = sp.random(50, 90, density=0.05, format="csr", dtype=np.float32, random_state=0)
    seeds = {"hashing": 1, "initialisation": 2, "sampling": 3}
    return MachOutput(
        n_labels=90, hidden=8, train_labels=labels, seeds=seeds, B=10, R=4, loss=loss, estimator=estimator
    )


@pytest.mark.parametrize("loss", ["bce", "softmax"])
@pytest.mark.parametrize("name", [name for name, how in ESTIMATORS.items() if how.exact])
def test_what_an_estimator_reads(name: str, loss: str) -> None:
    """The layer's ranking equals the plain decoder on what the estimator reads of each bucket."""
    output = layer(f"{name}+logit_sum" if name != "logit_sum" else name, loss)
    hidden = torch.randn(4, 7, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = torch.einsum("rnh,rbh->rnb", hidden, output.weights) + output.biases[:, None]
        scores, labels = output.topk_prefixes(hidden, 5, [2, 4])
    how = ESTIMATORS[name]
    plain = {"logit": lambda z: z, "probability": torch.sigmoid, "log_probability": torch.nn.functional.logsigmoid}
    if loss == "softmax":
        plain |= {"probability": lambda z: z.softmax(-1), "log_probability": lambda z: z.log_softmax(-1)}
    read = np.ascontiguousarray(plain[how.reads](logits).numpy().transpose(1, 0, 2))
    expected = top_k_reference(read, output.lookup, 5, [2, 4], how.combine)
    np.testing.assert_array_equal(labels, expected[1])
    np.testing.assert_allclose(scores, how.finish(expected[0], np.array([2, 4]), 10), rtol=1e-4, atol=1e-6)


def test_points_are_decoded_in_slices_without_changing_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    output = layer("logit_sum+min", "bce")
    hidden = torch.randn(4, 200, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = output.topk_decoders(hidden, 3, [1, 4])
        monkeypatch.setattr("mach.decode.ranking.SLICE_BYTES", 1)
        sliced = output.topk_decoders(hidden, 3, [1, 4])
    assert SLICE_BYTES > 1
    assert list(whole) == ["logit_sum", "min"]
    for name in whole:
        np.testing.assert_array_equal(whole[name][1], sliced[name][1])


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown estimator 'maen'"):
        layer("logit_sum+maen", "bce")


def test_decoding_keeps_its_index_between_calls() -> None:
    lookup = np.zeros((2, 5), dtype=np.uint16)
    ranker = BucketRanker(lookup, 3)
    arguments = ("bce", 4, Query(2, [2], range(2), ["logit_sum"]))
    ranker.rank(lambda *_: torch.zeros(4, 3), *arguments)
    (decoder,) = ranker._decoders.values()
    ranker.rank(lambda *_: torch.zeros(4, 3), *arguments)
    assert list(ranker._decoders.values()) == [decoder]
    assert bucket_scores(torch.zeros(1, 2), "probability", "softmax").tolist() == [[0.5, 0.5]]
