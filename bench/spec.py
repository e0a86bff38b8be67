"""What to run: experiments read from YAML, changed by dotted overrides, and unfolded into frozen run specs.

Nothing here imports torch or loads data; the launching process stays thin.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.errors import InputError, unknown_name
from bench.paths import config_root

EXPERIMENT_KEYS = ("description", "paper", "dataset", "seeds", "train", "methods", "time_limit_s")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of the trunk and of the one training loop, shared by all neural methods unless one says otherwise."""

    hidden: str = "128"  # widths of the hidden layers, e.g. 128 or 500-500
    epochs: int = 5
    batch_size: int = 256
    lr: float = 0.01
    lr_schedule: str = "linear"  # from lr down to 0 over the run, or constant
    optimiser: str = "adam"  # of the input layer's rows: adam or rowwise_adagrad; adam everywhere else
    repetitions_at_a_time: int = 0  # train repetitions in groups of this size, 0 = as many as memory holds
    holdout: bool = True  # keep the validation points out of training; False trains on the whole train split
    validate_every: int = 1  # epochs between points of the learning curve, 0 = none
    top_k: int = 10  # predictions kept for each test point
    predict_batch: int = 1024
    precision: str = "fp32"  # of the output layer's matrix products: fp32, or bf16 where layer and hardware have it
    device: str = "auto"  # auto, cpu or cuda
    threads: int = 0  # 0 = all cores

    def hidden_sizes(self) -> list[int]:
        """The widths as integers; InputError when they are not positive integers joined by '-'."""
        try:
            sizes = [int(width) for width in str(self.hidden).split("-")]
        except ValueError:
            sizes = []
        if not sizes or min(sizes) < 1:
            raise InputError(f"hidden: found {self.hidden!r}; expected widths such as 128 or 500-500")
        return sizes

    def check(self) -> None:
        """InputError when a value is out of its range."""
        self.hidden_sizes()
        for name in ("epochs", "batch_size", "top_k", "predict_batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: found {getattr(self, name)}; expected at least 1")
        for name in ("repetitions_at_a_time", "validate_every", "threads"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: found {getattr(self, name)}; expected 0 or more")
        if not self.lr > 0:
            raise InputError(f"lr: found {self.lr}; expected a positive number")
        choices = {
            "lr_schedule": ("constant", "linear"),
            "optimiser": ("adam", "rowwise_adagrad"),
            "precision": ("fp32", "bf16"),
            "device": ("auto", "cpu", "cuda"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise unknown_name(name, str(getattr(self, name)), known)


@dataclass(frozen=True)
class RunSpec:
    """One run, completely: what travels to the executing process."""

    method: str  # name in tables and figures
    target: str  # dotted path of the class
    settings: Mapping[str, Any]  # its own settings
    train: TrainSettings
    dataset: str
    dataset_overrides: Mapping[str, Any]
    seed: int
    swept: Mapping[str, Any] = field(default_factory=dict)  # dotted key -> value; names columns, not part of identity

    def canonical(self) -> str:
        """JSON that two equal runs share byte for byte."""
        content = asdict(self)
        del content["swept"]
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    def run_id(self, code_hash: str, data_fingerprint: str) -> str:
        """Readable name and a hash of spec, code and data, such as mach-icd10cm-B1024-R16-s0-3fa9c1."""
        identity = "\n".join([self.canonical(), code_hash, data_fingerprint])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:6]
        sizes = [f"{key}{self.settings[key]}" for key in ("B", "R") if key in self.settings]
        return "-".join([self.method, self.dataset_name, *sizes, f"s{self.seed}", digest])

    @property
    def dataset_name(self) -> str:
        """The dataset's name in tables: a card given as a path goes by its file name."""
        return Path(self.dataset).stem if self.dataset.endswith((".yaml", ".yml")) else self.dataset

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> RunSpec:
        content = json.loads(text)
        content["train"] = TrainSettings(**content["train"])
        return cls(**content)


def derive_seed(seed: int, *axes: str | int) -> int:
    """A seed for one named use of randomness (data order, hashing, ...), 31 bits, equal on every machine.

    Methods share the axes that must not differ between them, such as the order of the data.
    """
    text = "/".join(str(part) for part in (seed, *axes))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True)
class Experiment:
    """An experiment as configured, and the runs it unfolds into."""

    name: str
    description: str
    runs: tuple[RunSpec, ...]
    time_limit_s: float | None
    config: Mapping[str, Any]
    paper: Path | None = None  # the file of published values to compare with


def load_experiment(name: str, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment (a name under configs/experiment/ or a YAML path) and apply ``key=value`` overrides.

    Raises InputError for unknown names and keys, with the nearest known one, and for values of the wrong type.
    """
    path = _config_path("experiment", name)
    config = _read_yaml(path)
    for override in overrides:
        _apply(config, override)
    _check_keys(config, EXPERIMENT_KEYS, "key", str(path))
    if not config.get("methods"):
        raise InputError(f"{path}, key methods: found nothing; expected at least one method")
    if not config.get("dataset"):
        raise InputError(f"{path}, key dataset: found nothing; expected a dataset name")
    limit = config.get("time_limit_s")
    runs = tuple(_unfold(config, str(path)))
    paper = _config_path("paper", str(config["paper"])) if config.get("paper") else None
    description = str(config.get("description", "")).strip()
    return Experiment(path.stem, description, runs, limit and float(limit), config, paper)


def _unfold(config: Mapping[str, Any], where: str) -> Iterator[RunSpec]:
    """Every combination of swept values; seeds outermost, so that an interrupted sweep has all methods at seed 0."""
    train_keys = {f.name for f in fields(TrainSettings)}
    for seed in _as_list(config.get("seeds", 0)):
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise InputError(f"{where}, key seeds: found {seed!r}; expected whole numbers")
        for card, swept_card, shared, chosen in _datasets(config, where):
            _check_keys(shared, train_keys, "key", f"{where}, train")
            methods = {name: _method(name, own, train_keys, where) for name, own in chosen.items()}
            for name, method in methods.items():
                # Later wins: the method's file, what the experiment says for all, what it says for this method.
                flat = {**method.defaults, **{f"train.{k}": v for k, v in shared.items()}, **method.chosen}
                sweeps = {key: value for key, value in flat.items() if isinstance(value, list)}
                for values in itertools.product(*sweeps.values()):
                    point = {**flat, **dict(zip(sweeps, values, strict=True))}
                    train = {k.removeprefix("train."): v for k, v in point.items() if k.startswith("train.")}
                    yield RunSpec(
                        method=name,
                        target=method.target,
                        settings={k: v for k, v in point.items() if not k.startswith("train.")},
                        train=_train_settings(train, where),
                        dataset=card["name"],
                        dataset_overrides={k: v for k, v in card.items() if k != "name"},
                        seed=seed,
                        swept=swept_card
                        | {
                            f"methods.{name}.{key.removeprefix('train.')}" if key in method.chosen else key: value
                            for key, value in zip(sweeps, values, strict=True)
                        },
                    )


def _datasets(config: Mapping[str, Any], where: str) -> Iterator[tuple[dict[str, Any], dict[str, Any], Any, Any]]:
    """(name and parameters, swept ones by dotted key, train settings, methods) for each dataset and swept parameter.

    A dataset given as a mapping may bring ``train`` and ``methods`` of its own, which go before the experiment's.
    """
    for dataset in _as_list(config["dataset"]):
        card: dict[str, Any] = {"name": dataset} if isinstance(dataset, str) else dict(dataset)
        if "name" not in card:
            raise InputError(f"{where}, key dataset: found {dataset!r}; expected a name, or a mapping with a name")
        own_train: Any = card.pop("train", None) or {}
        own_methods: Any = card.pop("methods", None) or {}
        _check_keys(own_train, own_train, "key", f"{where}, dataset {card['name']}, train")
        _check_keys(own_methods, list(config["methods"]), "method", f"{where}, dataset {card['name']}, methods")
        methods: dict[str, Any] = dict(config["methods"])
        for name, own in own_methods.items():
            _check_keys(own, own, "key", f"{where}, dataset {card['name']}, methods.{name}")
            methods[name] = {**(methods[name] or {}), **own}
        sweeps = {key: value for key, value in card.items() if isinstance(value, list)}
        for values in itertools.product(*sweeps.values()):
            point = dict(zip(sweeps, values, strict=True))
            swept = {f"dataset.{key}": value for key, value in point.items()}
            yield card | point, swept, {**(config.get("train") or {}), **own_train}, methods


@dataclass(frozen=True)
class _Method:
    """A method's file and what the experiment chose: its own settings as they are, train settings as train.<key>."""

    target: str
    defaults: Mapping[str, Any]
    chosen: Mapping[str, Any]


def _method(name: str, chosen: Mapping[str, Any] | None, train_keys: set[str], where: str) -> _Method:
    if chosen is not None and not isinstance(chosen, Mapping):
        raise InputError(f"{where}, methods.{name}: found {chosen!r}; expected keys and values, or {{}}")
    chosen = dict(chosen or {})
    path = _config_path("method", str(chosen.pop("method", name)))
    base = _read_yaml(path)
    _check_keys(base, ("target", "settings", "train"), "key", str(path))
    if not isinstance(base.get("target"), str) or "." not in base["target"]:
        raise InputError(f"{path}, key target: found {base.get('target')!r}; expected a dotted path to a class")
    settings, train = dict(base.get("settings") or {}), dict(base.get("train") or {})
    _check_keys(train, train_keys, "key", f"{path}, train")
    _check_keys(chosen, [*settings, *train_keys], "key", f"{where}, methods.{name}")
    return _Method(
        base["target"],
        {**settings, **{f"train.{key}": value for key, value in train.items()}},
        {key if key in settings else f"train.{key}": value for key, value in chosen.items()},
    )


def _train_settings(values: Mapping[str, Any], where: str) -> TrainSettings:
    try:
        # A structured config converts what it can ("5" is 5) and refuses the rest.
        typed = OmegaConf.merge(OmegaConf.structured(TrainSettings), OmegaConf.create(dict(values)))
    except OmegaConfBaseException as error:
        raise InputError(f"{where}, train settings: {str(error).splitlines()[0]}") from error
    settings = TrainSettings(**OmegaConf.to_container(typed))  # type: ignore[arg-type]
    settings.check()
    return settings


def _config_path(kind: str, name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"{kind} file {name!r} does not exist")
        return path
    folder = config_root() / kind
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise unknown_name(kind, name, (p.stem for p in folder.glob("*.yaml")))
    return path


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except Exception as error:  # OmegaConf and the YAML reader raise unrelated classes
        raise InputError(f"{path}: not a readable YAML file: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: found {type(content).__name__}; expected keys and values")
    return {str(key): value for key, value in content.items()}


def _apply(config: dict[str, Any], override: str) -> None:
    """Set ``a.b.c=value``; a comma makes a list, which is a sweep."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r}: expected key=value, for example methods.mach.B=1024")
    parts = key.split(".")
    if parts[0] not in EXPERIMENT_KEYS:
        raise unknown_name("key", parts[0], EXPERIMENT_KEYS, f"override {override!r}")
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={_listed(text)}"]))["value"]  # type: ignore[index,call-overload]
    except Exception as error:
        raise InputError(f"override {override!r}: cannot read the value: {error}") from error
    node = config
    for part in parts[:-1]:
        if not isinstance(node.get(part), dict):
            if node.get(part) is not None and not (part == "dataset" and isinstance(node[part], str)):
                raise InputError(f"override {override!r}: {part} is a value and has no keys")
            node[part] = {"name": node[part]} if isinstance(node.get(part), str) else {}
        node = node[part]
    node[parts[-1]] = value


def _listed(text: str) -> str:
    return f"[{text}]" if "," in text and not text.startswith(("[", "{")) else text


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_keys(found: Mapping[str, Any], known: Sequence[str] | set[str], kind: str, where: str) -> None:
    if not isinstance(found, Mapping):
        raise InputError(f"{where}: found {found!r}; expected keys and values")
    for key in found:
        if key not in known:
            raise unknown_name(kind, key, known, where)
