"""Name of the layer in YAML files written before `mach.layer`; it goes on working."""

from mach.layer.output import MachOutput as MachOutput
