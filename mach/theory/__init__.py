"""The theory of MACH: collisions of labels, and its cost in memory and operations."""
