"""Starts the runs of an experiment, one after the other on this machine or on a Ray cluster, and watches them."""

from bench.launch.experiment_runner import LaunchOptions, run_experiment

__all__ = ["LaunchOptions", "run_experiment"]
