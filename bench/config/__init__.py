"""YAML to frozen objects: specs, experiments, search spaces, published values."""
