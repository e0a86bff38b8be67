"""Peers that are not our code: each runs in a Python environment of its own, driven by files and a child process."""
