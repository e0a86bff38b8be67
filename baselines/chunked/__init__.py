"""Losses and updates of layers over all labels, a chunk of labels at a time; no matrix of points × labels exists."""
