"""Benchmarks of MACH's own parts beside plain references."""
