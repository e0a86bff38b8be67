"""Runs on a Ray cluster. The rest of the harness imports `cluster` and no other module of this folder."""
