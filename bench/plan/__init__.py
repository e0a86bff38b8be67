"""Before a run: the grid, what each run needs, what is known already and what is missing."""
