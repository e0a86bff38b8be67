"""Datasets: text formats, memory-mapped cache, sources and synthetic twins."""
