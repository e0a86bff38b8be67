"""What a method offers: the first file to read before adding one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp


class Classifier(Protocol):
    """A method that learns and ranks in its own way, made from the settings of its YAML as keywords.

    Optional: ``prepare(seed, threads)``, called before ``fit`` on the clock of ``build_s`` with a seed for its
    randomness and the run's threads (0 = all cores); NotImplementedError there makes the run ``unsupported``, with its
    reason. ``facts()``, called last, a dict of more columns of the results; those that the harness measures too
    (``fit_s``, ``predict_s``, ``peak_host_bytes``) go before its own numbers: a method that works in another process
    measures there, and what its ``fit`` took beyond ``fit_s`` is counted as ``build_s``. ``batched``: where it is
    False, ``topk`` gets all points in one call. ``reproducible``: False where the same settings and seed may give other
    predictions.
    """

    def fit(self, X: sp.csr_matrix, Y: sp.csr_matrix) -> None:
        """X CSR [N, n_features], Y CSR [N, n_labels]."""

    def topk(self, X: sp.csr_matrix, k: int) -> Ranking:
        """(scores [N, k] float32, labels [N, k] int32), best first, ties by lowest label id, −1 where there is none."""


class OutputLayer(Protocol):
    """What a neural method brings (an ``nn.Module``); everything else is the harness's and the same for all.

    An ordinary layer sees hidden [N, H]. A layer with an attribute ``repetitions`` = R asks for R independent
    encoders, sees hidden [R, N, H], and offers ``subset(range)`` (the layer of some repetitions, parameters shared)
    and ``topk_prefixes(hidden, k, prefixes)``. If its attribute ``share_encoder`` is true it asks for one encoder,
    whose hidden all R repetitions see, and ``subset`` is not used to train.

    A layer with repetitions may know several ways from its outputs to labels: ``decoders``, their names, its own first,
    and ``topk_decoders(hidden, k, prefixes)``, a dict of what ``topk_prefixes`` gives by each of them.

    A layer whose repetitions are independent may offer a static method ``part(repetitions, **settings)``: the settings
    of a layer of these alone, with all that their training depends on and nothing else, or None where they are not. Its
    repetition i then equals number repetitions[i] of the whole, its attribute ``first`` is the number of its first one
    (of which the encoders' seeds follow), and ``subset`` gives a module whose ``state_dict`` is all that they train. So
    each can be kept, and trained by another process or on another machine (`bench.run.checkpoint.trained_repetitions`).
    Where it also has ``rank_only(labels)``, after which it ranks the labels of a range alone, with the scores that they
    have among all, several processes can share the labels when it predicts (`bench.run.prediction_shards`).

    Optional: ``warm_up(k)``, called before any clock runs, which has all compiled that ranking may choose by the number
    of points or by their scores; ``index_bytes()``, the bytes of lookup tables; ``facts()``, more columns of the
    results, a dict for each R (one dict for an ordinary layer); ``feature_lookup(n_features)``, an array
    [R, n_features] of hashed features, below the attribute ``feature_hash``, that each encoder shall see in place of
    the features, or None; ``precisions``, the names of the precisions that it knows beside fp32, of which its attribute
    ``precision`` is then set to the run's; ``timing_hook``, None or a function that the loss shall call with the name
    of each part of its work and its seconds; ``lookup``, its hash tables, whose hash a checkpoint keeps. What changes
    in training is in the layer's ``state_dict``: random streams of its own by ``get_extra_state`` and
    ``set_extra_state``, as JSON or a tensor.

    What a run will take is predicted from static methods, without building the layer: ``parameter_count(n_labels=,
    hidden=, **settings)``; ``cost(n_labels=, hidden=, run=, **settings)``, bytes by purpose and operations of a step
    (`baselines.parts.cost` says which, and what ``run`` holds; `bench.plan.forecast` adds the trunk and the data); and
    for a layer with repetitions ``encoders(**settings)``, a dict of ``repetitions``, ``encoders`` and ``feature_hash``.

    A layer whose dense gradient would be as large as its weights may list those parameters in ``chunked`` and have an
    attribute ``update``, None at first. While it is trained, that is a function (name, rows, gradient), rows a slice,
    by which the loss hands over the gradient of some rows and has them updated at once (`bench.model.inplace_adam`):
    after it has taken the gradient of hidden from the old rows, each row once a loss, and only where gradients are
    enabled. Autograd then gets none for these parameters. Where ``update`` is None, it gets them as ever.

    An ordinary layer may be spread over processes: its static method ``processes(**settings)`` says over how many the
    run is to be executed, each with a part of the layer and the whole trunk, on a GPU of its own if there are any. When
    the layer is built, the processes form torch.distributed's default group. All see the same batches, and call
    ``loss`` and ``topk`` at the same time; both must return the same in all, and the gradient of hidden must be equal
    bit for bit, for this is all that keeps the copies of the trunk together. ``parameter_count`` is of the whole layer,
    ``cost`` of one process, and the attribute ``elsewhere`` the number of parameters that others hold. The attribute
    ``offset``, if there is one, is what the first row of ``chunked`` parameters is called in the whole, of which
    stochastic rounding depends.
    """

    def loss(self, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """Scalar training loss; labels is CSR [N, n_labels]."""

    def topk(self, hidden: Tensor, k: int) -> Ranking:
        """(scores [N, k] float32, labels [N, k] int32), best first, ties by lowest label id."""


if TYPE_CHECKING:
    from torch import Tensor

Ranking = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]  # scores and labels [N, k], best first
