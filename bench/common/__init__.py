"""Helpers that know nothing about benchmarks: errors, files, locks, paths, units, child processes, the code hash."""
