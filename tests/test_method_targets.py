"""The targets that users' YAML files name: those of configs/method, and the names of earlier versions."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bench.model.methods import method_class

METHODS = Path(__file__).resolve().parents[1] / "configs" / "method"
TARGETS = {path.stem: str(OmegaConf.load(path)["target"]) for path in sorted(METHODS.glob("*.yaml"))}
EARLIER = ["mach.output.MachOutput", "mach.layer.output.MachOutput"]


@pytest.mark.parametrize("name", TARGETS)
def test_targets_of_the_configs_are_classes(name: str) -> None:
    module, _, attribute = TARGETS[name].rpartition(".")
    found = getattr(import_module(module), attribute)
    assert method_class(TARGETS[name]) is found
    assert hasattr(found, "topk")
    assert hasattr(found, "loss") or hasattr(found, "fit")


@pytest.mark.parametrize("target", EARLIER)
def test_earlier_targets_of_mach_go_on_working(target: str) -> None:
    assert TARGETS["mach"] == "mach.layer.MachOutput"
    assert method_class(target) is method_class(TARGETS["mach"])
