"""Numeric helpers that mach and baselines share: products by precision, worker pools, exp and log kernels."""
