"""Kept repetitions and runs of shards, in a shared folder and at the URL of an exchange."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.launch.ray.exchange import Exchange
from bench.launch.ray.kept import AT_URL, KeptRepetitions, pull_repetitions, pull_run, push_repetitions
from bench.results.store import REPETITIONS, WEIGHTS, Store


def write(weights: Path, *names: str) -> Path:
    """Files of repetitions as training leaves them."""
    weights.mkdir(parents=True, exist_ok=True)
    for name in names:
        (weights / f"{name}.safetensors").write_text(f"weights of {name}")
        (weights / f"{name}.json").write_text("{}")
    return weights


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    return Exchange((tmp_path / "url").as_uri())


def test_repetitions_of_the_shared_folder_are_found_and_removed(tmp_path: Path) -> None:
    store = Store(tmp_path / "results" / "e")
    kept = KeptRepetitions(store, None)
    kept.sweep_up()
    assert kept.present(["a"]) == set()
    write(store.root.parent / REPETITIONS / WEIGHTS, "a", "b")
    assert kept.present(["a", "b", "c"]) == {"a", "b"}
    kept.remove(["a", "c"])
    assert kept.present(["a", "b", "c"]) == {"b"}


def test_only_repetitions_at_the_url_count_where_folders_are_not_shared(tmp_path: Path, exchange: Exchange) -> None:
    store = Store(tmp_path / "results" / "e")
    here = write(store.root.parent / REPETITIONS / WEIGHTS, "a", "b")
    kept = KeptRepetitions(store, exchange)
    assert kept.present(["a", "b"]) == set()
    push_repetitions(exchange, ["a", "missing"], here)
    assert exchange.names(AT_URL) == {"a.json", "a.safetensors"}
    assert kept.present(["a", "b"]) == {"a"}
    kept.remove(["a"])
    assert kept.present(["a"]) == set()
    assert not (here / "a.json").exists()


def test_repetitions_that_are_missing_here_are_pulled(tmp_path: Path, exchange: Exchange) -> None:
    push_repetitions(exchange, ["a", "b"], write(tmp_path / "one", "a", "b"))
    other = write(tmp_path / "other", "b")
    (other / "b.safetensors").write_text("own")
    pull_repetitions(exchange, ["a", "b", "c"], other)
    assert {path.name for path in other.iterdir()} == {"a.json", "a.safetensors", "b.json", "b.safetensors"}
    assert (other / "a.safetensors").read_text() == "weights of a"
    assert (other / "b.safetensors").read_text() == "own"


@pytest.mark.parametrize("complete", [True, False])
def test_only_complete_runs_are_pulled(tmp_path: Path, exchange: Exchange, complete: bool) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "topk.npz").write_bytes(b"predictions")
    if complete:
        (run / "record.json").write_text('{"status": "ok"}')
    exchange.push_all(run, f"{REPETITIONS}/runs/shard")
    store = Store(tmp_path / "node" / REPETITIONS)
    store.runs.mkdir(parents=True)
    pull_run(exchange, store, "shard")
    assert (store.runs / "shard").exists() == complete
