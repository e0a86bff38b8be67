"""Exact decoding on CPUs: the scan of all labels, the pruned search, and the choice between them."""
