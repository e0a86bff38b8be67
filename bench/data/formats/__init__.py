"""File formats of datasets and score files, a file for each."""
