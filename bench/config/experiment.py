"""Experiments: read from YAML, changed by dotted overrides, and expanded into frozen run specs.

Nothing here imports torch or loads data; the launching process stays small.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.columns import BY_NAME, QUALITY
from bench.common.errors import InputError, unknown_name
from bench.common.names import checked_name
from bench.common.units import read_bytes
from bench.config.search_space import Space, draw_trials
from bench.config.spec import RunSpec, TrainSettings
from bench.config.yaml_files import SUFFIXES, apply_override, as_list, check_keys, config_path, read_yaml

EXPERIMENT_KEYS: tuple[str, ...] = (
    *("name", "description", "paper", "dataset", "seeds", "tune", "train", "methods"),
    *("time_limit_s", "memory_limit_bytes"),  # of each run
    "tuned",  # where chosen settings come from: information without effect on the runs
)
TRIAL = "tune.trial"


@dataclass(frozen=True)
class Tuning:
    """Every method gets ``trials`` settings, drawn with ``seed``; ``metric`` on validation points chooses one."""

    trials: int = 8
    seed: int = 0
    metric: str = "P@1"

    @classmethod
    def read(cls, value: Mapping[str, Any], where: str) -> Tuning:
        """From the key ``tune`` of an experiment; InputError for unknown keys and wrong values."""
        check_keys(value, [f.name for f in fields(cls)], "key", where)
        tuning = cls(**value)
        for name, lowest in (("trials", 1), ("seed", 0)):
            found = getattr(tuning, name)
            if not isinstance(found, int) or isinstance(found, bool) or found < lowest:
                raise InputError(f"{where}.{name}: found {found!r}; expected a whole number of at least {lowest}")
        if tuning.metric not in QUALITY:
            raise unknown_name("metric", str(tuning.metric), QUALITY, where)
        return tuning


@dataclass(frozen=True)
class Experiment:
    """An experiment as configured, and its runs."""

    name: str
    description: str
    runs: tuple[RunSpec, ...]
    time_limit_s: float | None
    config: Mapping[str, Any]
    paper: Path | None = None  # the file of published values to compare with
    tuning: Tuning | None = None
    memory_limit_bytes: int | None = None
    file: Path | None = None  # where it was read from


def load_experiment(name: str, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment (a name under configs/experiment/ or a YAML path) and apply ``key=value`` overrides.

    Raises InputError for unknown names and keys, with the nearest known one, and for values of the wrong type.
    """
    path = config_path("experiment", name)
    config = read_yaml(path)
    for override in overrides:
        apply_override(config, override, EXPERIMENT_KEYS)
    check_keys(config, EXPERIMENT_KEYS, "key", str(path))
    _check_shape(config, str(path))
    seconds, memory = config.get("time_limit_s"), config.get("memory_limit_bytes")
    tuning = Tuning.read(config["tune"] or {}, f"{path}, tune") if "tune" in config else None
    return Experiment(
        name=_name(config, path),
        description=str(config.get("description", "")).strip(),
        runs=tuple(unfold(config, str(path), tuning)),
        time_limit_s=None if seconds is None else _seconds(seconds, f"{path}, key time_limit_s"),
        memory_limit_bytes=None if memory is None else int(read_bytes(memory, f"{path}, key memory_limit_bytes")),
        config=config,
        paper=config_path("paper", str(config["paper"])) if config.get("paper") else None,
        tuning=tuning,
        file=path,
    )


def experiment_name(experiment: str) -> str:
    """The name of the results folder of an experiment, given that name or the experiment's YAML file."""
    path = Path(experiment)
    if is_file_of_experiment(experiment):
        return _name(read_yaml(path), path)
    return checked_name(path.stem if path.suffix in SUFFIXES else path.name, "experiment")


def is_file_of_experiment(experiment: str) -> bool:
    """Whether the text is the path of a YAML file that exists; otherwise it is a name, which may have dots."""
    return Path(experiment).suffix in SUFFIXES and Path(experiment).is_file()


def _check_shape(config: Mapping[str, Any], where: str) -> None:
    """InputError where a key of the experiment does not hold what it should: a list instead of keys, a number."""
    methods, dataset, train = config.get("methods"), config.get("dataset"), config.get("train")
    if methods is None or methods == {}:
        raise InputError(f"{where}, key methods: found nothing; expected at least one method")
    if not isinstance(methods, Mapping):
        raise InputError(f"{where}, key methods: found {methods!r}; expected keys and values, such as {{mach: {{}}}}")
    for name in methods:
        checked_name(name, f"{where}, key methods")
    if dataset is None or dataset == []:
        raise InputError(f"{where}, key dataset: found nothing; expected a dataset name")
    for one in as_list(dataset):
        if not isinstance(one, str | Mapping):
            raise InputError(f"{where}, key dataset: found {one!r}; expected a name, or a mapping with a name")
    if train is not None and not isinstance(train, Mapping):
        raise InputError(f"{where}, key train: found {train!r}; expected keys and values, such as {{epochs: 5}}")
    if as_list(config.get("seeds", 0)) == []:
        raise InputError(f"{where}, key seeds: found []; expected at least one whole number")


def _name(config: Mapping[str, Any], path: Path) -> str:
    """The name by the key ``name``, else by the file."""
    name = config.get("name", path.stem)
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"{path}, key name: found {name!r}; expected letters, digits, '_', '-' and '.'")
    return name


def _seed(value: Any, where: str) -> int:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())  # 1e1 is 10
    if isinstance(value, bool) or not whole or value < 0:
        raise InputError(f"{where}, key seeds: found {value!r}; expected whole numbers, 0 or more")
    return int(value)


def _seconds(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{where}: found {value!r}; expected a positive number of seconds")
    return float(value)


def unfold(config: Mapping[str, Any], where: str, tuning: Tuning | None = None) -> Iterator[RunSpec]:
    """Every combination of swept values, or every trial; seeds are the outermost loop, so that an interrupted sweep has
    all methods at seed 0. ``where`` names the config in errors."""
    train_keys = {f.name for f in fields(TrainSettings)}
    for seed in [_seed(value, where) for value in as_list(config.get("seeds", 0))]:
        for card, swept_card, shared, chosen in _datasets(config, where):
            check_keys(shared, train_keys, "key", f"{where}, train")
            methods = {name: _method(name, own, train_keys, where) for name, own in chosen.items()}
            for name, method in methods.items():
                # Later ones win: the method's file, the experiment's settings for all methods, those for this method.
                before = {**method.defaults, **{f"train.{k}": v for k, v in shared.items()}}
                if tuning is None:
                    points = _combinations(name, method, before, where)
                else:
                    axes = (json.dumps(card, sort_keys=True), name)
                    points = _trials(name, method, before, tuning, axes, where)
                for point, swept in points:
                    train = {k.removeprefix("train."): v for k, v in point.items() if k.startswith("train.")}
                    yield RunSpec(
                        method=name,
                        target=method.target,
                        settings={k: v for k, v in point.items() if not k.startswith("train.")},
                        train=_train_settings(train, where),
                        dataset=card["name"],
                        dataset_overrides={k: v for k, v in card.items() if k != "name"},
                        seed=seed,
                        swept=swept_card | swept,
                    )


Points = Iterator[tuple[dict[str, Any], dict[str, Any]]]  # settings of a run, and those that vary by dotted key


def _combinations(name: str, method: _Method, before: Mapping[str, Any], where: str) -> Points:
    """Every combination of the values given as lists."""
    flat = {**before, **method.chosen}
    for key, value in flat.items():
        if isinstance(value, Mapping):
            expected = "expected a value, or the key tune in the experiment to search over it"
            raise InputError(f"{where}, methods.{name}.{key.removeprefix('train.')}: found {value!r}; {expected}")
    sweeps = {key: value for key, value in flat.items() if isinstance(value, list)}
    for key in sweeps:
        if not sweeps[key]:
            raise InputError(f"{where}, {key.removeprefix('train.')} of {name}: found []; expected at least one value")
    for values in itertools.product(*sweeps.values()):
        point = dict(zip(sweeps, values, strict=True))
        swept = {
            f"methods.{name}.{key.removeprefix('train.')}" if key in method.chosen else key: value
            for key, value in point.items()
        }
        yield flat | point, swept


def _trials(
    name: str, method: _Method, before: Mapping[str, Any], tuning: Tuning, axes: Sequence[str], where: str
) -> Points:
    """Trials over the settings given as search spaces, the first at their defaults; one where there are none."""
    flat = {**before, **method.chosen}
    spaces, defaults = {}, {}
    for key, value in flat.items():
        if isinstance(value, list) or (isinstance(value, Mapping) and key not in method.chosen):
            expected = "with the key tune expected a value, or a search space of one method such as {choice: [...]}"
            raise InputError(f"{where}, {key} of {name}: found {value!r}; {expected}")
        if isinstance(value, Mapping):
            spaces[key] = Space.read(value, f"{where}, methods.{name}.{key.removeprefix('train.')}")
            standard = getattr(TrainSettings, key.removeprefix("train."), None)
            defaults[key] = before.get(key, standard)
    for trial, drawn in enumerate(draw_trials(spaces, defaults, tuning.trials, tuning.seed, axes)):
        names = {key: key.removeprefix("train.") for key in drawn}
        # A setting with a column of its own in the table needs no second column.
        swept = {f"tune.{names[key]}": value for key, value in drawn.items() if names[key] not in BY_NAME}
        yield {**flat, **drawn, "train.evaluate_on": "validation"}, {TRIAL: trial} | swept


def _datasets(config: Mapping[str, Any], where: str) -> Iterator[tuple[dict[str, Any], dict[str, Any], Any, Any]]:
    """(name and parameters, swept ones by dotted key, train settings, methods) for each dataset and swept parameter.

    A dataset given as a mapping may have its own ``train`` and ``methods``, which override those of the experiment.
    """
    for dataset in as_list(config["dataset"]):
        card: dict[str, Any] = {"name": dataset} if isinstance(dataset, str) else dict(dataset)
        if "name" not in card:
            raise InputError(f"{where}, key dataset: found {dataset!r}; expected a name, or a mapping with a name")
        own_train: Any = card.pop("train", None) or {}
        own_methods: Any = card.pop("methods", None) or {}
        check_keys(own_train, own_train, "key", f"{where}, dataset {card['name']}, train")
        check_keys(own_methods, list(config["methods"]), "method", f"{where}, dataset {card['name']}, methods")
        methods: dict[str, Any] = dict(config["methods"])
        for name, own in own_methods.items():
            check_keys(own, own, "key", f"{where}, dataset {card['name']}, methods.{name}")
            methods[name] = {**(methods[name] or {}), **own}
        if not isinstance(card["name"], str) or not card["name"].strip():
            raise InputError(f"{where}, key dataset.name: found {card['name']!r}; expected the name of one dataset")
        sweeps = {key: value for key, value in card.items() if isinstance(value, list)}
        for key in sweeps:
            if not sweeps[key]:
                raise InputError(f"{where}, key dataset.{key}: found []; expected at least one value")
        for values in itertools.product(*sweeps.values()):
            point = dict(zip(sweeps, values, strict=True))
            swept = {f"dataset.{key}": value for key, value in point.items()}
            yield card | point, swept, {**(config.get("train") or {}), **own_train}, methods


@dataclass(frozen=True)
class _Method:
    """Settings of a method by its file and by the experiment: its own by name, train settings as train.<key>."""

    target: str
    defaults: Mapping[str, Any]
    chosen: Mapping[str, Any]


def _method(name: str, chosen: Mapping[str, Any] | None, train_keys: set[str], where: str) -> _Method:
    if chosen is not None and not isinstance(chosen, Mapping):
        raise InputError(f"{where}, methods.{name}: found {chosen!r}; expected keys and values, or {{}}")
    chosen = dict(chosen or {})
    path = config_path("method", str(chosen.pop("method", name)))
    base = read_yaml(path, ("target", "settings", "train", "size"))
    if not isinstance(base.get("target"), str) or "." not in base["target"]:
        raise InputError(f"{path}, key target: found {base.get('target')!r}; expected a dotted path to a class")
    settings, train = dict(base.get("settings") or {}), dict(base.get("train") or {})
    check_keys(train, train_keys, "key", f"{path}, train")
    check_keys(chosen, [*settings, *train_keys], "key", f"{where}, methods.{name}")
    return _Method(
        base["target"],
        {**settings, **{f"train.{key}": value for key, value in train.items()}},
        {key if key in settings else f"train.{key}": value for key, value in chosen.items()},
    )


def _train_settings(values: Mapping[str, Any], where: str) -> TrainSettings:
    whole = {f.name for f in fields(TrainSettings) if isinstance(f.default, int) and not isinstance(f.default, bool)}
    given = {
        name: int(value) if name in whole and isinstance(value, float) and value.is_integer() else value  # 1e3 is 1000
        for name, value in values.items()
    }
    try:
        # A structured config converts where it can ("5" is 5) and refuses the rest.
        typed = OmegaConf.merge(OmegaConf.structured(TrainSettings), OmegaConf.create(given))
    except OmegaConfBaseException as error:
        key = f"train.{error.full_key}" if error.full_key else "train settings"
        raise InputError(f"{where}, {key}: {str(error).splitlines()[0]}") from error
    settings = TrainSettings(**OmegaConf.to_container(typed))  # type: ignore[arg-type]
    try:
        settings.check()
    except InputError as error:
        raise InputError(f"{where}, train settings: {error}") from None
    return settings
