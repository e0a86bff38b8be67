"""Datasets: cards, files and downloads, text formats, a memory-mapped cache, built and synthetic sources."""

from __future__ import annotations

from bench.data.cards import Card, known_datasets, load_card
from bench.data.dataset import Dataset, Split, dataset_fingerprint, load_dataset, prepare_dataset

__all__ = [
    "Card",
    "Dataset",
    "Split",
    "dataset_fingerprint",
    "known_datasets",
    "load_card",
    "load_dataset",
    "prepare_dataset",
]
