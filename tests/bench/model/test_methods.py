"""What the harness finds that a method offers, and names and settings that it refuses."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import scipy.sparse as sp
from torch import nn

from baselines.external import napkinxc_plt, omikuji_trees, pecos_xrlinear
from baselines.full_softmax import LOSSES as SOFTMAX_LOSSES
from baselines.parts.samplers import LABEL_ORDERS, SAMPLERS
from baselines.sampled_softmax import CHOICES
from bench import interface
from bench.common.errors import InputError
from bench.common.paths import config_root
from bench.config.method_settings import constructor_parameters
from bench.config.yaml_files import read_yaml
from bench.model.built_method import BuiltClassifier, BuiltLayer, chunked_parts, offset_of, reproducible
from bench.model.methods import Encoders, Method, members_of, method_class
from mach.hashing.families import FAMILIES
from mach.layer.loss import LOSSES as BUCKET_LOSSES

METHODS = sorted(path.stem for path in (config_root() / "method").glob("*.yaml"))
Y = sp.random(30, 20, 0.2, format="csr", random_state=0, dtype=np.float32)


def of(name: str, **settings: Any) -> Method:
    content = read_yaml(config_root() / "method" / f"{name}.yaml")
    return Method.load(content["target"], {**(content.get("settings") or {}), **settings})


def nothing(*_: Any) -> None: ...


class Layer(nn.Module):
    """An ordinary layer that offers nothing beyond what is required."""

    def __init__(self, *, n_labels: int, hidden: int, train_labels: Any, seeds: Any, width: int = 3) -> None:
        del n_labels, hidden, train_labels, seeds, width
        super().__init__()

    def loss(self, hidden: Any, labels: Any) -> Any: ...

    def topk(self, hidden: Any, k: int) -> Any: ...


class Classifier:
    def fit(self, X: Any, Y: Any) -> None: ...

    def topk(self, X: Any, k: int) -> Any: ...


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_accepted_with_the_settings_of_its_file(name: str) -> None:
    method = of(name)
    assert dict(method.settings) == (read_yaml(config_root() / "method" / f"{name}.yaml").get("settings") or {})
    assert method.is_classifier is hasattr(method.cls, "fit")


@pytest.mark.parametrize("name", METHODS)
def test_every_layer_is_accepted_once_it_is_built(name: str) -> None:
    method = of(name)
    if method.is_classifier:
        assert reproducible(method.build_classifier()) in (True, False)
        return
    layer = method.build_layer(8, Y, seed=0)
    BuiltLayer.of(layer)
    assert method.parameter_count(20, 8) == sum(parameter.numel() for parameter in layer.parameters())


def test_capabilities_of_mach() -> None:
    method = of("mach", B=6, R=4, feature_hash=10, estimator="logit_sum+mean")
    assert method.encoders == Encoders(4, 4, 10)
    assert (method.processes, method.precisions[0]) == (1, "fp32")
    assert (method.predicts_cost, method.has_parts, method.ranks_label_ranges) == (True, True, True)
    part = method.part(range(1, 3))
    assert part is not None
    assert (part["R"], part["first"]) == (2, 1)
    built = BuiltLayer.of(method.with_settings(part | {"estimator": "logit_sum+mean"}).build_layer(8, Y, seed=0))
    assert (built.repetitions, built.first, built.share_encoder) == (2, 1, False)
    assert built.decoders == ("logit_sum", "mean")
    assert built.has_facts
    assert [list(row) for row in built.facts()] == [["unresolved_pairs"]] * 2
    assert built.lookup is not None
    assert built.index_bytes() == built.lookup.nbytes
    lookup, n_hashed = built.feature_lookup(50)
    assert lookup is not None
    assert (lookup.shape, n_hashed) == ((2, 50), 10)
    built.use_precision("bf16")
    assert built.module.precision == "bf16"
    assert of("mach", share_encoder=True).part(range(1)) is None


def test_capabilities_of_a_layer_over_all_labels() -> None:
    method = of("full_softmax", shards=3)
    assert (method.processes, method.has_parts, method.encoders) == (3, False, Encoders())
    layer = of("bottleneck").build_layer(8, Y, seed=0)
    assert chunked_parts(layer) == [layer.labels]
    assert offset_of(layer.labels) == 0
    built = BuiltLayer.of(of("full_softmax").build_layer(8, Y, seed=0))
    assert (built.repetitions, built.decoders, built.elsewhere, built.lookup) == (None, (None,), 0, None)


def test_a_layer_without_capabilities_has_defaults() -> None:
    method = Method.of(Layer, {})
    assert not method.is_classifier
    assert (method.name, method.encoders, method.processes, method.precisions) == ("Layer", Encoders(), 1, ("fp32",))
    assert (method.predicts_cost, method.has_parts, method.ranks_label_ranges) == (False, False, False)
    assert (method.parameter_count(5, 2), method.cost(5, 2, {}), method.part(range(1))) == (None, None, None)
    built = BuiltLayer.of(method.build_layer(8, Y, seed=0))
    assert (built.repetitions, built.share_encoder, built.first, built.elsewhere) == (None, False, 0, 0)
    assert (built.decoders, built.precisions, built.lookup) == ((None,), ("fp32",), None)
    assert (built.has_facts, built.facts(), built.index_bytes()) == (False, [{}], 0)
    assert built.feature_lookup(9) == (None, 0)
    built.warm_up(5)
    built.use_precision("fp32")
    assert not hasattr(built.module, "precision")
    assert chunked_parts(built.module) == []


def test_capabilities_of_classifiers() -> None:
    plain = BuiltClassifier(Method.of(Classifier, {}).build_classifier())
    assert (plain.prepares, plain.batched, plain.facts(), reproducible(plain.instance)) == (False, True, None, True)
    plain.prepare(seed=1, threads=0)
    calls = []

    class Full(Classifier):
        batched = False
        reproducible = False

        def prepare(self, seed: int, threads: int) -> None:
            calls.append((seed, threads))

        def facts(self) -> dict[str, int]:
            return {"leaves": 3}

    full = BuiltClassifier(Method.of(Full, {}).build_classifier())
    full.prepare(seed=1, threads=2)
    assert calls == [(1, 2)]
    assert (full.prepares, full.batched, full.facts(), reproducible(full.instance)) == (
        True,
        False,
        {"leaves": 3},
        False,
    )


def test_the_seeds_and_sizes_that_a_layer_gets() -> None:
    given: dict[str, Any] = {}

    class Keeps(Layer):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            given.update(settings)

    Method.of(Keeps, {"width": 4.0}).build_layer(8, Y, seed=5)
    assert (given["n_labels"], given["hidden"], given["width"]) == (20, 8, 4)
    assert set(given["seeds"]) == {"hashing", "initialisation", "sampling"}
    assert len(set(given["seeds"].values())) == 3


NEAR_MISSES = {
    "warmup": "warm_up",
    "warmUp": "warm_up",
    "decoder": "decoders",
    "fact": "facts",
    "subsets": "subset",
    "repetition": "repetitions",
    "parameters_count": "parameter_count",
    "process": "processes",
    "time_hook": None,
    "feature_lookups": "feature_lookup",
    "_warmup": None,
    "costly": None,
    "first_label": None,
    "weights": None,
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_a_name_that_is_nearly_a_capability_is_an_error(name: str) -> None:
    found, right = type("Mine", (Layer,), {name: nothing}), NEAR_MISSES[name]
    if right is None:
        assert name not in Method.of(found, {}).offered
        return
    with pytest.raises(InputError, match=rf"method \S*Mine: found `{name}`; expected `{right}`"):
        Method.of(found, {})


def test_a_required_name_may_be_misspelt_too() -> None:
    bare = type("Mine", (nn.Module,), {"top_k": nothing, "loss": nothing})
    with pytest.raises(InputError, match="found `top_k`; expected `topk`"):
        Method.of(bare, {})
    tree = type("Mine", (), {"fits": nothing, "topk": nothing})
    with pytest.raises(InputError, match="found `fits`; expected `fit`"):
        Method.of(tree, {})
    tree = type("Mine", (Classifier,), {"prepared": nothing})
    with pytest.raises(InputError, match="found `prepared`; expected `prepare`"):
        Method.of(tree, {})


def test_a_similar_name_beside_the_right_one_is_no_mistake() -> None:
    both = type("Mine", (Layer,), {"top_k": nothing, "facts": nothing, "fact": 1})
    assert "facts" in Method.of(both, {}).offered


@pytest.mark.parametrize(
    ("attribute", "right"),
    [("repetition", "repetitions"), ("decoder", "decoders"), ("shared_encoder", "share_encoder"), ("offsets", None)],
)
def test_an_attribute_of_a_built_layer_may_be_misspelt(attribute: str, right: str | None) -> None:
    methods = {"subset": nothing, "topk_decoders": nothing}
    layer = Method.of(type("Mine", (Layer,), methods), {}).build_layer(8, Y, seed=0)
    setattr(layer, attribute, 3)
    if right is None:
        BuiltLayer.of(layer)
        return
    with pytest.raises(InputError, match=rf"Mine: found `{attribute}`; expected `{right}`"):
        BuiltLayer.of(layer)


def test_a_layer_without_repetitions_may_call_its_parts_as_it_likes() -> None:
    layer = Method.of(Layer, {}).build_layer(8, Y, seed=0)
    layer.decoder, layer.updates, layer.lookups = nn.Linear(2, 3), 4, [1]
    BuiltLayer.of(layer)


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("mach", {"BB": 3}, "unknown setting 'BB' in method mach.layer.MachOutput; did you mean 'B'"),
        ("mach", {"B": 0}, "setting B: found 0; expected a whole number of at least 1"),
        ("mach", {"hash": "md5"}, "setting hash: found 'md5'; expected one of universal, murmur3, balanced"),
        ("mach", {"seeds": {}}, "setting seeds: found {}; expected none: the harness supplies it"),
        ("full_softmax", {"shards": True}, "setting shards: found True; expected a whole number of at least 1"),
        ("bottleneck", {"rank": 0.5}, "setting rank: found 0.5; expected a whole number of at least 1"),
        ("adaptive_softmax", {"div_value": 0.5}, "setting div_value: found 0.5; expected a number of at least 1"),
        ("nearest_neighbours", {"power": 0}, "setting power: found 0; expected a number above 0"),
        ("pecos_xrlinear", {"nr_splits": 1}, "setting nr_splits: found 1; expected a whole number of at least 2"),
        ("label_frequency", {"k": 1}, "unknown setting 'k'"),
    ],
)
def test_settings_of_our_methods_are_checked_without_building_one(
    name: str, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as error:
        of(name, **settings)
    assert says in str(error.value)


def test_a_missing_setting_is_an_error() -> None:
    with pytest.raises(InputError, match="MachOutput, setting R: found none; expected a whole number of at least 1"):
        Method.load("mach.output.MachOutput", {"B": 8})


def test_choices_in_annotations_are_those_that_constructors_accept() -> None:
    def choices(target: str, name: str) -> set[Any]:
        return set(get_args(constructor_parameters(method_class(target))[0][name].annotation))

    assert choices("mach.output.MachOutput", "loss") == set(BUCKET_LOSSES)
    assert choices("mach.output.MachOutput", "hash") == set(FAMILIES)
    for target in ("baselines.full_softmax.FullSoftmax", "baselines.bottleneck.Bottleneck"):
        assert choices(target, "loss") == set(SOFTMAX_LOSSES)
    sampled = "baselines.sampled_softmax.SampledSoftmax"
    for name, known in (CHOICES | {"sampler": SAMPLERS, "label_order": LABEL_ORDERS}).items():
        assert choices(sampled, name) == set(known)
    assert choices("baselines.external.napkinxc_plt.NapkinxcPLT", "optimizer") == set(napkinxc_plt.OPTIMISERS)
    assert choices("baselines.external.napkinxc_plt.NapkinxcPLT", "tree_search_type") == set(napkinxc_plt.SEARCHES)
    assert choices("baselines.external.omikuji_trees.OmikujiTrees", "loss") == set(omikuji_trees.LOSSES)
    assert choices("baselines.external.pecos_xrlinear.PecosXRLinear", "negative_sampling") == set(
        pecos_xrlinear.SAMPLINGS
    )


def test_the_interface_lists_every_capability_with_a_docstring() -> None:
    listed = {*interface.LAYER_CAPABILITIES, *interface.CLASSIFIER_CAPABILITIES}
    protocols = {
        found
        for name, found in vars(interface).items()
        if inspect.isclass(found) and found.__module__ == interface.__name__ and not name.startswith("_")
    }
    assert protocols - listed == {interface.OutputLayer, interface.Classifier}
    assert all(protocol.__doc__ for protocol in protocols)
    assert {"warm_up", "facts", "update", "part"} <= members_of(interface.LAYER_CAPABILITIES)


def test_methods_and_layers_are_probed_in_two_files_alone() -> None:
    """``hasattr`` and ``getattr`` with a constant name say that somebody looks at a capability elsewhere."""
    names = members_of([*interface.LAYER_CAPABILITIES, *interface.CLASSIFIER_CAPABILITIES]) | {"fit", "loss", "topk"}
    probe = re.compile(rf"""(?:has|get)attr\([^\n]*, "(?:{"|".join(names)})"[,)]""")
    root = Path(interface.__file__).parent
    wrong = [
        f"{path.relative_to(root)}: {found}"
        for path in root.rglob("*.py")
        if path.name not in ("methods.py", "built_method.py")
        for found in probe.findall(path.read_text())
    ]
    assert wrong == []


def test_no_class_and_no_module() -> None:
    for target, says in [
        ("baselines.full_softmax.FullSoftmaxx", "has no attribute"),
        ("no_such_module.Layer", "No module named"),
        ("baselines.full_softmax.LOSSES", "found tuple; expected a class"),
    ]:
        with pytest.raises(InputError, match=says):
            Method.load(target, {})
