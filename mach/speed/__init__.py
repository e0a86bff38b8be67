"""Benchmarks of decoding beside plain references, for `machbench speed`."""
