"""Runs that the table leaves out: damaged, withdrawn or forgotten ones."""
