"""Exact decoding on GPUs: a Triton kernel, and the same in plain torch operations."""
