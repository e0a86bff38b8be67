"""What a method offers: the first file to read before adding one.

A method is an `OutputLayer` (a neural method) or a `Classifier` (any other), each with two required methods. All that
follows is optional. A **capability** is a small protocol: a class offers it by having the names that the protocol
lists. No base class and no registration is needed. `bench.model.methods` looks the names up, and there alone; a name
that is nearly one of these (``warmup`` for ``warm_up``) is an error before anything runs.

Settings are the keywords of the constructor. They are checked against its annotations before anything runs, also
against ranges such as ``Annotated[int, ">= 1"]`` (`bench.config.method_settings`).

Shapes: N points, H the width of the last hidden layer, R repetitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

if TYPE_CHECKING:
    from torch import Tensor

Ranking = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]  # scores and labels [N, k], best first


class OutputLayer(Protocol):
    """A neural method: an ``nn.Module`` on top of the encoder. Encoder, batches, optimiser and loop are the harness's.

    The harness calls the constructor with the keywords ``n_labels``; ``hidden``, the width H; ``train_labels``, the
    label matrix of the points to train on (CSR); ``seeds``, a dict with a seed for each of ``hashing``,
    ``initialisation`` and ``sampling``; and with the settings of the YAML file.

    What changes in training belongs to the module's ``state_dict``, so that a checkpoint has it. A layer with random
    streams of its own adds them by torch's ``get_extra_state`` and ``set_extra_state``, as JSON or a tensor.
    """

    def loss(self, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """Scalar training loss; hidden [N, H] (with `Repetitions` [R, N, H]), labels CSR [N, n_labels]."""

    def topk(self, hidden: Tensor, k: int) -> Ranking:
        """(scores [N, k] float32, labels [N, k] int32), best first, ties by lowest label id."""


class Classifier(Protocol):
    """Any other method: it learns and ranks in its own way, measured by the same clocks. Settings are its keywords."""

    def fit(self, X: sp.csr_matrix, Y: sp.csr_matrix) -> None:
        """X CSR [N, n_features], Y CSR [N, n_labels]; both are read-only."""

    def topk(self, X: sp.csr_matrix, k: int) -> Ranking:
        """(scores [N, k] float32, labels [N, k] int32), best first, ties by lowest label id, −1 where there is none."""


# Capabilities of output layers: several repetitions


class Repetitions(Protocol):
    """The layer consists of R repetitions, each with an encoder of its own. It sees hidden [R, N, H]."""

    repetitions: int

    def subset(self, repetitions: range) -> OutputLayer:
        """The layer of some repetitions; its parameters share memory with this layer."""

    def topk_prefixes(self, hidden: Tensor, k: int, prefixes: Sequence[int]) -> Ranking:
        """Scores and labels [P, N, k] from the first R' repetitions, for each of the P numbers R' in ``prefixes``."""


class SharedEncoder(Protocol):
    """Where true, all repetitions see the output of one encoder, and are trained together."""

    share_encoder: bool


class Decoders(Protocol):
    """Several rules turn outputs of repetitions into label scores. ``decoders``: their names, the default first."""

    decoders: Sequence[str]

    def topk_decoders(self, hidden: Tensor, k: int, prefixes: Sequence[int]) -> Mapping[str, Ranking]:
        """What ``topk_prefixes`` returns, by each decoder."""


class Parts(Protocol):
    """Repetitions are independent: each can be kept, and trained by another process or on another machine.

    Repetition i of a part equals repetition ``repetitions[i]`` of the whole layer. See
    `bench.run.checkpoint.trained_repetitions`.
    """

    first: int
    """Number of the part's first repetition in the whole layer; the seeds of encoders depend on it."""

    @staticmethod
    def part(repetitions: range, **settings: Any) -> Mapping[str, Any] | None:
        """Settings of a layer of these repetitions alone: all that their training depends on, and nothing else.

        None where the settings make repetitions depend on each other.
        """


class LabelRanges(Protocol):
    """The layer can rank a range of labels alone, so that several processes share the labels when it predicts."""

    def rank_only(self, labels: range) -> None:
        """From now on rank these labels alone, with the scores that they have among all labels."""


class Exclusions(Protocol):
    """Some labels may not be ranked for some points: pairs that the dataset's filter files leave out.

    Where ``takes_excluded`` is true, ``topk``, and ``topk_prefixes`` and ``topk_decoders`` where the layer has them,
    take one keyword more: ``excluded``, CSR [N, n_labels] with ids ascending in each row, or None. Its stored entries
    are pairs of a point and a label that must be in no list: the ranking is that of the other labels, −1 at score −inf
    where fewer than k are left. Its columns are all labels, also after ``rank_only``. Without the capability the
    harness has k labels more ranked than a point has such pairs, and drops these.
    """

    takes_excluded: bool


class HashedFeatures(Protocol):
    """Each encoder sees hashed features, ids below ``feature_hash``."""

    feature_hash: int

    def feature_lookup(self, n_features: int) -> npt.NDArray[np.integer] | None:
        """Hashed id of each feature for each repetition, [R, n_features]; None for features as they are."""


# Capabilities of output layers: large weights


class ChunkedUpdates(Protocol):
    """The dense gradient would be as large as the weights: rows are updated while the loss is computed.

    While the layer is trained, ``update`` is set to a function (name, rows, gradient) with rows a slice. The loss calls
    it for the parameters listed in ``chunked``, only where gradients are enabled: each row once per loss, and after the
    gradient of hidden has been taken from the old rows. Autograd then gets no gradient of these parameters. Where
    ``update`` is None, autograd gets it. See `bench.model.inplace_adam`.
    """

    chunked: ClassVar[Sequence[str]]
    update: Callable[[str, slice, Tensor], None] | None


class RowSparse(Protocol):
    """The gradients of the parameters listed in ``row_sparse`` are sparse tensors: only those rows are updated."""

    row_sparse: ClassVar[Sequence[str]]


class Processes(Protocol):
    """The layer is sharded over several processes, each on a GPU of its own if there are any.

    When the layer is built, the processes form torch.distributed's default group. All see the same batches and call
    ``loss`` and ``topk`` at the same time. Both must return the same in all processes, and the gradient of hidden must
    be equal bit for bit, because each process trains its own copy of the encoder. ``parameter_count`` is of the whole
    layer, ``cost`` of one process.
    """

    elsewhere: int
    """Number of the parameters that other processes hold."""
    offset: int
    """Row of the whole layer that is row 0 here; stochastic rounding depends on it."""

    @staticmethod
    def processes(**settings: Any) -> int:
        """Number of processes of the run (the world size)."""


class Precisions(Protocol):
    """The layer computes its matrix products in other precisions than fp32. ``precision`` is set to that of the run."""

    precisions: ClassVar[Sequence[str]]
    precision: str


# Capabilities of output layers: planning and measuring


class Planning(Protocol):
    """Size and cost of a run, predicted from the settings without building the layer (`bench.plan.forecast`)."""

    @staticmethod
    def parameter_count(*, n_labels: int, hidden: int, **settings: Any) -> int:
        """Trained parameters of the layer."""

    @staticmethod
    def cost(*, n_labels: int, hidden: int, run: Mapping[str, float], **settings: Any) -> Mapping[str, float]:
        """Bytes by purpose, and operations of a step; `baselines.parts.cost` lists the keys, also those of ``run``."""

    @staticmethod
    def encoders(**settings: Any) -> Mapping[str, int]:
        """For a layer with repetitions: ``repetitions``, ``encoders`` and ``feature_hash``."""


class LayerFacts(Protocol):
    """More columns of the results, and the size of lookup tables."""

    def facts(self) -> Sequence[Mapping[str, Any]]:
        """A dict for each number of repetitions 1 to R; one dict for a layer without repetitions."""

    def index_bytes(self) -> int:
        """Bytes of the lookup tables that ranking needs."""


class WarmUp(Protocol):
    """Code that ranking may choose by the number of points or by their scores is compiled before any clock runs."""

    def warm_up(self, k: int) -> None:
        """Compile it."""


class Lookup(Protocol):
    """Hash tables, made again from seeds. A checkpoint keeps their hash and refuses other tables."""

    lookup: npt.NDArray[np.integer]


class Timing(Protocol):
    """The loss reports its parts to a timer: ``timing_hook``, if not None, gets the name of a part and its seconds."""

    timing_hook: Callable[[str, float], None] | None


# Capabilities of classifiers, and of both


class Preparation(Protocol):
    """Work before ``fit`` that counts as ``build_s``."""

    def prepare(self, seed: int, threads: int) -> None:
        """Get ready; threads of the run, 0 for all cores. NotImplementedError makes the run ``unsupported``."""


class ClassifierFacts(Protocol):
    """More columns of the results, called last.

    A method that works in another process measures there: its ``fit_s``, ``predict_s`` and ``peak_host_bytes`` replace
    those of the harness, and the time of ``fit`` beyond its ``fit_s`` counts as ``build_s``.
    """

    def facts(self) -> Mapping[str, Any]:
        """Values by column."""


class Batched(Protocol):
    """Where false, ``topk`` gets all points in one call."""

    batched: bool


class Reproducible(Protocol):
    """Where false, the same settings and seed may give other predictions."""

    reproducible: bool


LAYER_CAPABILITIES: tuple[type, ...] = (
    *(Repetitions, SharedEncoder, Decoders, Parts, LabelRanges, Exclusions, HashedFeatures),
    *(ChunkedUpdates, RowSparse, Processes, Precisions),
    *(Planning, LayerFacts, WarmUp, Lookup, Timing, Reproducible),
)
CLASSIFIER_CAPABILITIES: tuple[type, ...] = (Exclusions, Preparation, ClassifierFacts, Batched, Reproducible)
