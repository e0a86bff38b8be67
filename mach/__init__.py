"""MACH as a library: hash families, the hashed output layer, decoding and theory."""
