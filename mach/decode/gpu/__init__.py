"""Exact decoding on GPUs."""
