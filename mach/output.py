"""The target of the layer in YAML files that were written before `mach.layer`; it still works."""

from mach.layer.output import MachOutput as MachOutput
