"""One run in one process, the heart of the benchmark: load, build, warm up, restore, fit, rank, score, write."""
