"""The spec of a run, which is sent to the process that executes it. Nothing here imports torch or loads data."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.common.errors import InputError, unknown_name
from bench.common.names import as_file_name

# The first path of a method whose module was moved, by its later paths: so results of all versions answer the same
# question, and those of earlier code are recognised as stale.
FIRST_TARGETS = dict.fromkeys(("mach.layer.MachOutput", "mach.layer.output.MachOutput"), "mach.output.MachOutput")

NOTHING = "nothing"  # to evaluate on, in the specs of repetitions that are trained for another run


@dataclass(frozen=True)
class TrainSettings:
    """Settings of the encoder and of the training loop, the same for all neural methods by default."""

    hidden: str = "128"  # widths of the hidden layers, e.g. 128 or 500-500
    epochs: int = 5
    batch_size: int = 256
    lr: float = 0.01
    lr_schedule: str = "linear"  # from lr down to 0 over the run, or constant
    optimiser: str = "adam"  # of the input layer's rows: adam or rowwise_adagrad; adam everywhere else
    repetitions_at_a_time: int = 0  # train repetitions in groups of this size, 0 = as many as memory holds
    holdout: bool = True  # keep the validation points out of training; False trains on the whole train split
    validate_every: int = 1  # epochs between points of the learning curve, 0 = none
    evaluate_on: str = "test"  # points to predict and measure quality on: test, or validation to choose settings
    top_k: int = 10  # predictions kept for each of these points
    predict_batch: int = 1024
    precision: str = "fp32"  # of the output layer's matrix products: fp32, or bf16 where layer and hardware have it
    device: str = "auto"  # auto, cpu or cuda
    threads: int = 0  # 0 = all cores
    checkpoint_every_s: float = 30.0  # seconds at least between checkpoints, 0 = one after every epoch
    keep_repetitions: bool = False  # keep trained repetitions, and train none that were kept before

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
        if not 0 <= self.checkpoint_every_s < math.inf:
            raise InputError(f"checkpoint_every_s: found {self.checkpoint_every_s}; expected 0 or more")
        if not 0 < self.lr < math.inf:
            raise InputError(f"lr: found {self.lr}; expected a positive number")
        choices = {
            "evaluate_on": ("test", "validation"),
            "lr_schedule": ("constant", "linear"),
            "optimiser": ("adam", "rowwise_adagrad"),
            "precision": ("fp32", "bf16"),
            "device": ("auto", "cpu", "cuda"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise unknown_name(name, str(getattr(self, name)), known)
        if self.evaluate_on == "validation" and not self.holdout:
            raise InputError(
                "holdout: found False; expected True, because training points cannot be used to choose settings"
            )


@dataclass(frozen=True)
class Shard:
    """The part of another run's predictions that a run makes: a range of points, or a range of labels."""

    axis: str  # points: these points ranked among all labels; labels: all points ranked among these labels
    start: int
    stop: int


@dataclass(frozen=True)
class RunSpec:
    """Everything that defines one run."""

    method: str  # name in tables and figures
    target: str  # dotted path of the class
    settings: Mapping[str, Any]  # its own settings
    train: TrainSettings
    dataset: str
    dataset_overrides: Mapping[str, Any]
    seed: int
    swept: Mapping[str, Any] = field(default_factory=dict)  # dotted key -> value; names columns, not part of identity
    shard: Shard | None = None  # None: all predictions

    def with_settings(self, settings: Mapping[str, Any]) -> RunSpec:
        """The run with values of the types that its method expects (1000 for 1e3), also among the swept values."""
        changed = {name: value for name, value in settings.items() if type(value) is not type(self.settings[name])}
        if not changed:
            return self
        prefixes = (f"methods.{self.method}", "tune")
        keys = {f"{prefix}.{name}": value for prefix in prefixes for name, value in changed.items()}
        swept = {key: keys.get(key, value) for key, value in self.swept.items()}
        return replace(self, settings=dict(settings), swept=swept)

    def canonical(self) -> str:
        """JSON that two equal runs share byte for byte."""
        content = asdict(self)
        del content["swept"]
        if self.shard is None:
            del content["shard"]
        for name in ("checkpoint_every_s", "keep_repetitions"):  # whether something is kept does not change a run
            del content["train"][name]
        if self.train.evaluate_on == "test":  # runs made before this setting existed keep their names
            del content["train"]["evaluate_on"]
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    def run_id(self, code_hash: str, data_fingerprint: str) -> str:
        """Readable name and a hash of spec, code and data, such as mach-icd10cm-B1024-R16-s0-3fa9c1."""
        identity = "\n".join([self.canonical(), code_hash, data_fingerprint])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:6]
        sizes = [f"{key}{self.settings[key]}" for key in ("B", "R") if key in self.settings]
        return "-".join(map(as_file_name, [self.method, self.dataset_name, *sizes, f"s{self.seed}", digest]))

    def question(self, data_fingerprint: str) -> str:
        """Short hash of spec and data, without the code: what a checkpoint of the run depends on besides the code."""
        return short_hash(f"{self._of_any_version()}\n{data_fingerprint}")

    def request(self) -> str:
        """Short hash of the spec alone, with the dataset by its name. Of the results of one request the newest counts,
        whatever code and data they are of."""
        return short_hash(self._of_any_version())

    def _of_any_version(self) -> str:
        return replace(self, target=FIRST_TARGETS.get(self.target, self.target)).canonical()

    @property
    def dataset_name(self) -> str:
        """The dataset's name in tables: for a card given as a path, its file name."""
        return Path(self.dataset).stem if self.dataset.endswith((".yaml", ".yml")) else self.dataset

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> RunSpec:
        """From what `to_json` gives, also with the hashes that a run's spec.json adds."""
        content = {key: value for key, value in json.loads(text).items() if key not in ("code", "asked")}
        content["train"] = TrainSettings(**content["train"])
        if earlier := content.pop("share", None):  # earlier versions: ``share``, whose axis was ``of``
            content["shard"] = {"axis": earlier.pop("of"), **earlier}
        if content.get("shard"):
            content["shard"] = Shard(**content["shard"])
        return cls(**content)


def short_hash(text: str) -> str:
    """First 16 hex digits of the sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derive_seed(seed: int, *axes: str | int) -> int:
    """A seed for one named use of randomness (data order, hashing, ...), 31 bits, equal on every machine.

    Methods use the same axes where they must not differ, such as the order of the data.
    """
    text = "/".join(str(part) for part in (seed, *axes))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
