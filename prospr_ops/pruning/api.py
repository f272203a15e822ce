"""Pruning a model: score, select, apply."""

from __future__ import annotations

import os
import time
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.methods.engine.checkpoint import checkpoint_path
from prospr_ops.network.loss import Loss
from prospr_ops.network.weights import Prunable, left_out_weights
from prospr_ops.pruning.arrays import Masks, Scores
from prospr_ops.pruning.connectivity import depends_on_input, sampled
from prospr_ops.pruning.flops import weight_uses
from prospr_ops.pruning.mask_files import PackedMasks
from prospr_ops.pruning.masks import apply_masks
from prospr_ops.pruning.patterns import Pattern
from prospr_ops.pruning.result import PruneResult
from prospr_ops.pruning.scoring import Scored, Scoring, run_scoring
from prospr_ops.pruning.target import Scope, Target, check_revive
from prospr_ops.utils.checks import check_integer
from prospr_ops.utils.settings import Settings


def prune(
    model: keras.Model,
    data: Any,
    *,
    sparsity: float | None = None,
    flops: float | None = None,
    method: str = "exact",
    rounds: int | None = None,
    revive: bool = False,
    curvature: str = "auto",
    probes: int = 1,
    steps: int = 3,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    nesterov: bool = False,
    loss: Loss | None = None,
    batch_size: int = 128,
    microbatch: int | None = None,
    scope: Scope = "global",
    pattern: Pattern | str | None = None,
    structure: str = "weight",
    prunable: Prunable | None = None,
    seed: int | None = None,
    min_keep: int = 0,
    allow_empty: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    memory: int | None = None,
    verbose: int = 1,
    strategy: tf.distribute.Strategy | None = None,
) -> PruneResult:
    """Prunes a model at initialisation, in place.

    Afterwards the pruned weights are zero and stay zero under training (see `apply_masks`); every
    other weight and all other state of the model is unchanged. On any error the model is unchanged.

    Args:
        model: A built Keras model.
        data: Training data, as `fit` takes it: a tuple (x, y) or (x, y, sample_weight) of arrays or
            of structures of arrays, a batched `tf.data.Dataset`, a `PyDataset`, a generator, or an
            iterable of such batches; y may be absent if the model brings its loss. Methods with
            steps draw `steps` + 1 batches, starting over at the end of the data; "snip" and "grasp"
            draw one. Arrays are shuffled. None for methods "synflow", "magnitude" and "random".
        sparsity: Fraction of the prunable weights to set to zero, in [0, 1). Of n weights (with
            scope="layer", of each layer's) exactly ⌈n (1 − sparsity)⌉ are kept; ties go to the lower
            index. Exactly one of `sparsity` and `flops` is given, unless `pattern` or `scope` says
            already how much of every layer stays.
        flops: Fraction of the prunable layers' multiply-adds to keep, in (0, 1]. Weights are ranked
            by score per use (log score − log uses), and as many as fit are kept: the next one in
            rank would not. Weights that take part in none, as those of an Embedding, are free. With
            structure="channel" the multiply-adds are those after `shrink`. Not for method "grasp".
        method: Pruning criterion: "exact" (ProsPr's meta-gradient as in the paper; keeps one copy of
            the weights per step), "diagonal" (ProsPr with the streamed diagonal), "first_order"
            (ProsPr's first-order variant), "snip", "grasp", "synflow", "magnitude" or "random".
        rounds: Number R of rounds: score, prune, and score again what is left, on fresh batches. After
            round r a fraction (1 − sparsity)^(r/R) of the weights is kept (of a model that is pruned
            already, in as many equal ratios from what it has). Takes R times as long as one. None
            for 1, and 100 for "synflow". "magnitude" and "random" prune the same whatever it is.
        revive: Whether weights that a round has pruned may return in a later one, by |∂L/∂c ⊙ w_init| at
            the mask c of the rounds so far; for methods "snip" and "first_order" in 2 rounds or more,
            and structure="weight". Weights that were pruned before the call stay pruned.
        curvature: Estimator of the Hessian's diagonal for method "diagonal": "auto", "ggn",
            "ggn_mc", "hutchinson" or "row_sum"; see `prospr_ops.curvature.diagonal`.
        probes: Random vectors per step that a random curvature estimator averages over; ≥ 1.
        steps: Number of the prospect's SGD steps; ≥ 0.
        learning_rate: Step size α of the prospect's SGD steps; ≥ 0.
        momentum: Momentum μ of the prospect's SGD steps, in [0, 1); as in PyTorch, v ← μ v + g and
            w ← w − α v.
        nesterov: Whether the prospect's SGD steps use Nesterov momentum, w ← w − α (g + μ v); needs
            `momentum` > 0 and is for methods "exact" and "first_order".
        loss: Training loss: a Keras loss, its name, a function of (y, prediction), or a list or
            dictionary of these by output, as `compile` takes it; None for the loss that the model is
            compiled with or adds. The model's regularisation losses are added.
        batch_size: Samples per batch; used where `data` is a tuple of arrays.
        microbatch: Samples per part, if each batch is to be evaluated in parts, one after the
            other; None for whole batches. Bounds the memory; changes the result by rounding only
            (and the draws of dropout). The loss must be a mean over independent samples.
        scope: "global" ranks all weights together; "layer" prunes each layer by itself; "erk" gives
            each layer its share of the weights by Erdős–Rényi-kernel, larger layers a lower density;
            a mapping of path pattern to sparsity, in which only `*` and `?` are wildcards, prunes
            each layer by the first pattern that matches, and ranks the others together so that the
            total is what was asked for.
        pattern: "n:m", such as "2:4", keeps the best n of each m weights along the input axis of every
            kernel, and so implies the sparsity; "axb", such as "4x1", keeps or prunes blocks of a
            inputs × b outputs whole, by the sum of their scores, and counts blocks. `NByM` and
            `Block` are such values; None for single weights.
        structure: "weight" for single weights, or "channel" for whole output channels and units of
            functional and Sequential models, which `shrink` can then remove. A channel is pruned
            with its bias, with the gamma and beta of the BatchNormalization, LayerNormalization or
            GroupNormalization behind it, and with all channels that must be pruned together with it (a dependency group, through a residual
            sum for instance). Each group counts once, and the sparsity is the fraction of groups.
            Channels that must stay, such as the model's outputs, are not counted. See
            `prospr_ops.pruning.channels.groups` for the scores.
        prunable: Weights that may be pruned: None for the kernels of Dense, EinsumDense, Embedding,
            convolution, transposed, depthwise and separable convolution layers and recurrent cells;
            a function (layer, variable) -> bool; or variable paths, in which only `*` and `?` are
            wildcards.
        seed: Seed for everything random in the call; None draws one (see `PruneResult.settings`).
            The same seed, model and data give bit-identical results with the same number of
            intra-op threads on the same machine. Other numbers of threads change convolutional
            networks by TensorFlow's rounding (see docs/long_runs.md).
        min_keep: Minimum number of weights (or channels) kept in each layer's kernel, whatever
            their score; a kernel that has fewer keeps all. See `select`.
        allow_empty: Whether to accept masks that cut the output off from the input. A layer without
            any weight is accepted anyway where the output still depends on the input, with a warning
            that names the layer.
        checkpoint: File for the state of the run. If the process is killed, the same call with the
            same model and data resumes from the file and gives bit-identical results. Needs a
            `seed`, and data in the same order again. Written between steps, which takes at most 5 %
            of the time; deleted when the call succeeds. Methods without steps write nothing. See
            docs/long_runs.md.
        memory: Bytes that method "exact" may use to keep what it computed in its last steps instead of
            computing it again, where the steps are few enough to run without tracing the model; 0
            keeps nothing, None uses at most a quarter of the free memory. The scores are the same.
        verbose: 0 prints nothing; 1 shows a progress bar and a table of the layers.
        strategy: A `tf.distribute` MirroredStrategy, MultiWorkerMirroredStrategy or
            OneDeviceStrategy in whose scope the model was built; None for the open scope's
            strategy, or else the one that the model was built under. The replicas share every
            batch. The result equals that of one process on whole batches but for rounding, the
            draws of dropout and "ggn_mc", and BatchNormalization, which normalises each replica's
            share by itself. Call it on every worker with the same arguments and data: all workers
            get the same result. The first worker's seed is used. The loss must be a mean over
            samples.

    Returns:
        Masks, scores and a record of the run.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range; the model is not built or has nothing to prune; the
            data is empty or does not fit the model; the loss or a derivative is NaN or infinite; the
            output would no longer depend on the input; `checkpoint` is damaged, belongs to another run, or is given
            without a `seed` or with replicas; or the workers were given different arguments or
            data.
        OSError: `checkpoint` cannot be read or written.
        tf.errors.OpError: Another worker is lost.

    Examples:
        >>> import keras
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.random((64, 8), np.float32), rng.integers(3, size=64)
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> result = po.prune(model, (x, y), sparsity=0.9, loss=loss, seed=0, verbose=0)
        >>> f"{result.kept:,} of {result.weights:,} weights are kept"
        '3,270 of 32,700 weights are kept'
    """
    start = time.perf_counter()
    settings = Settings.among(locals())
    if rounds is not None:
        rounds = check_integer("rounds", rounds, at_least=1)
    revive = check_revive(revive, method, rounds, structure)
    target = Target.of(
        sparsity=sparsity, flops=flops, scope=scope, pattern=pattern, min_keep=min_keep
    )
    scored = run_scoring(
        Scoring(
            model=model,
            method=method,
            loss=loss,
            structure=structure,
            prunable=prunable,
            checkpoint=checkpoint_path(checkpoint, seed),
            strategy=strategy,
            settings=settings,
            target=target,
            rounds=rounds,
            revive=revive,
        ),
        data,
        show_progress=bool(verbose),
    )
    masks, kept, channels = scored.masks, scored.kept, scored.channels
    result = PruneResult(
        masks=PackedMasks(masks),
        scores=scored.scores,
        sparsity=_pruned_fraction(kept) if target.sparsity is None else target.sparsity,
        settings={**scored.settings, **target.record()},
        losses=scored.losses,
        estimators=scored.estimators,
        seconds=time.perf_counter() - start,
        uses=weight_uses(model, scored.inputs),
        input_shape=scored.sample_shape,
        left_out=(
            left_out_weights(model, masks) if prunable is None and structure == "weight" else {}
        ),
        shrunk={} if channels is None else channels.shrunk_sizes(masks),
        pruned_groups=(
            {}
            if channels is None
            else {path: np.flatnonzero(~groups).tolist() for path, groups in kept.items()}
        ),
    )
    if not allow_empty:
        _check_connected(model, masks, scored)
    apply_masks(model, masks)  # the last that can fail
    scored.finish()
    if verbose:
        result.summary()
    return result


def _pruned_fraction(kept: Masks) -> float:
    """Fraction that is not kept."""
    size = sum(mask.size for mask in kept.values())
    return 1 - sum(int(np.count_nonzero(mask)) for mask in kept.values()) / size


def _check_connected(model: keras.Model, masks: Masks, scored: Scored) -> None:
    """Warns of layers without a weight; refuses them if the output depends on no input any more.

    Raises:
        ValueError: It does not.
    """
    empty = [path for path, mask in masks.items() if mask.ndim > 1 and not mask.any()]
    if not empty:
        return
    inputs = sampled(scored.inputs) if scored.first is None else scored.first
    if inputs is not None and not depends_on_input(model, masks, inputs):
        msg = (
            f"the output of model {model.name!r} would no longer depend on its input: no weight is "
            f"left in {', '.join(empty)}; lower sparsity, or pass min_keep=1 or scope='layer' "
            "(allow_empty=True accepts it)"
        )
        raise ValueError(msg)
    warnings.warn(f"no weight is left in {', '.join(empty)}", stacklevel=3)


def score(
    model: keras.Model,
    data: Any,
    *,
    method: str = "exact",
    curvature: str = "auto",
    probes: int = 1,
    steps: int = 3,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    nesterov: bool = False,
    loss: Loss | None = None,
    batch_size: int = 128,
    microbatch: int | None = None,
    structure: str = "weight",
    prunable: Prunable | None = None,
    seed: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    memory: int | None = None,
    verbose: int = 1,
    strategy: tf.distribute.Strategy | None = None,
) -> Scores:
    """Scores the weights of a model and leaves the model unchanged.

    Args:
        model: A built Keras model.
        data: Training data, as `fit` takes it: a tuple (x, y) or (x, y, sample_weight) of arrays or
            of structures of arrays, a batched `tf.data.Dataset`, a `PyDataset`, a generator, or an
            iterable of such batches; y may be absent if the model brings its loss. Methods with
            steps draw `steps` + 1 batches, starting over at the end of the data; "snip" and "grasp"
            draw one. Arrays are shuffled. None for methods "synflow", "magnitude" and "random".
        method: Pruning criterion: "exact" (ProsPr's meta-gradient as in the paper; keeps one copy of
            the weights per step), "diagonal" (ProsPr with the streamed diagonal), "first_order"
            (ProsPr's first-order variant), "snip", "grasp", "synflow", "magnitude" or "random".
        curvature: Estimator of the Hessian's diagonal for method "diagonal": "auto", "ggn",
            "ggn_mc", "hutchinson" or "row_sum"; see `prospr_ops.curvature.diagonal`.
        probes: Random vectors per step that a random curvature estimator averages over; ≥ 1.
        steps: Number of the prospect's SGD steps; ≥ 0.
        learning_rate: Step size α of the prospect's SGD steps; ≥ 0.
        momentum: Momentum μ of the prospect's SGD steps, in [0, 1); as in PyTorch, v ← μ v + g and
            w ← w − α v.
        nesterov: Whether the prospect's SGD steps use Nesterov momentum, w ← w − α (g + μ v); needs
            `momentum` > 0 and is for methods "exact" and "first_order".
        loss: Training loss: a Keras loss, its name, a function of (y, prediction), or a list or
            dictionary of these by output, as `compile` takes it; None for the loss that the model is
            compiled with or adds. The model's regularisation losses are added.
        batch_size: Samples per batch; used where `data` is a tuple of arrays.
        microbatch: Samples per part, if each batch is to be evaluated in parts, one after the
            other; None for whole batches. Bounds the memory; changes the result by rounding only
            (and the draws of dropout). The loss must be a mean over independent samples.
        structure: "weight" for single weights, or "channel" for whole output channels and units of
            functional and Sequential models, which `shrink` can then remove. A channel is pruned
            with its bias, with the gamma and beta of the BatchNormalization, LayerNormalization or
            GroupNormalization behind it, and with all channels that must be pruned together with it (a dependency group, through a residual
            sum for instance). Each group counts once, and the sparsity is the fraction of groups.
            Channels that must stay, such as the model's outputs, are not counted. See
            `prospr_ops.pruning.channels.groups` for the scores.
        prunable: Weights that may be pruned: None for the kernels of Dense, EinsumDense, Embedding,
            convolution, transposed, depthwise and separable convolution layers and recurrent cells;
            a function (layer, variable) -> bool; or variable paths, in which only `*` and `?` are
            wildcards.
        seed: Seed for everything random in the call; None draws one (see `PruneResult.settings`).
            The same seed, model and data give bit-identical results with the same number of
            intra-op threads on the same machine. Other numbers of threads change convolutional
            networks by TensorFlow's rounding (see docs/long_runs.md).
        checkpoint: File for the state of the run. If the process is killed, the same call with the
            same model and data resumes from the file and gives bit-identical results. Needs a
            `seed`, and data in the same order again. Written between steps, which takes at most 5 %
            of the time; deleted when the call succeeds. Methods without steps write nothing. See
            docs/long_runs.md.
        memory: Bytes that method "exact" may use to keep what it computed in its last steps instead of
            computing it again, where the steps are few enough to run without tracing the model; 0
            keeps nothing, None uses at most a quarter of the free memory. The scores are the same.
        verbose: 0 prints nothing; 1 shows a progress bar.
        strategy: A `tf.distribute` MirroredStrategy, MultiWorkerMirroredStrategy or
            OneDeviceStrategy in whose scope the model was built; None for the open scope's
            strategy, or else the one that the model was built under. The replicas share every
            batch. The result equals that of one process on whole batches but for rounding, the
            draws of dropout and "ggn_mc", and BatchNormalization, which normalises each replica's
            share by itself. Call it on every worker with the same arguments and data: all workers
            get the same result. The first worker's seed is used. The loss must be a mean over
            samples.

    Returns:
        Scores by variable path, for `select`: the logarithm of each weight's score, float32
        (float64 for float64 weights), where larger is more important and −inf is least. The scores
        of "grasp" are signed numbers, not logarithms; larger is more important. Those of "synflow"
        are the whole model's, its first round: only `prune`, which knows the sparsity, runs the
        others. With structure="channel", float64 vectors with one element per group of channels, by
        the path of the first kernel that makes the group; `channel_masks` takes the masks that
        `select` makes of them.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range; the model is not built or has nothing to prune; the
            data is empty or does not fit the model; the loss or a derivative is NaN or infinite;
            `checkpoint` is damaged, belongs to another run, or is given without a `seed` or with
            replicas; or the workers were given different arguments or data.
        OSError: `checkpoint` cannot be read or written.
        tf.errors.OpError: Another worker is lost.

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.random((64, 8), np.float32), rng.random((64, 3), np.float32)
        >>> scores = po.score(model, (x, y), method="snip", loss="mse", seed=0, verbose=0)
        >>> [values.shape for values in scores.values()]
        [(8, 300), (300, 100), (100, 3)]
        >>> po.apply_masks(model, po.select(scores, 0.9))
    """
    settings = Settings.among(locals())
    scored = run_scoring(
        Scoring(
            model=model,
            method=method,
            loss=loss,
            structure=structure,
            prunable=prunable,
            checkpoint=checkpoint_path(checkpoint, seed),
            strategy=strategy,
            settings=settings,
        ),
        data,
        show_progress=bool(verbose),
    )
    scored.finish()
    return scored.scores
