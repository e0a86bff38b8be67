"""What theory says of MACH: collisions of labels, memory and operations."""
