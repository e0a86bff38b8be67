"""File formats of datasets and score files, one module per format; `detect` recognises them."""
