"""Losses over all labels in chunks, so that no matrix of points × labels exists."""
