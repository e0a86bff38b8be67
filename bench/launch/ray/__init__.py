"""Runs on a Ray cluster; `cluster` is the only module that the rest of the harness imports."""
