"""Runs one after the other, on this machine or on a Ray cluster."""
