"""Numeric helpers of mach and baselines: exp and log in compiled loops, products by precision, workers, Triton."""
