"""What knows nothing of benchmarks: errors, files, locks, paths, units, child processes, the code hash."""
