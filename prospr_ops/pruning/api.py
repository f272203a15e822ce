"""Pruning a model: score, select, apply."""

from __future__ import annotations

import os
import time
from typing import Any

import keras
import tensorflow as tf

from prospr_ops.methods.engine.checkpoint import checkpoint_path
from prospr_ops.network.loss import Loss
from prospr_ops.network.weights import Prunable
from prospr_ops.pruning.flops import weight_uses
from prospr_ops.pruning.mask_files import PackedMasks
from prospr_ops.pruning.masks import apply_masks
from prospr_ops.pruning.result import PruneResult
from prospr_ops.pruning.scoring import Scoring, Target, run_scoring
from prospr_ops.pruning.selection import SCOPES, Scores
from prospr_ops.utils.checks import check_integer, check_real, choose
from prospr_ops.utils.settings import Settings


def prune(
    model: keras.Model,
    data: Any,
    *,
    sparsity: float,
    method: str = "diagonal",
    curvature: str = "auto",
    probes: int = 1,
    steps: int = 3,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    nesterov: bool = False,
    loss: Loss | None = None,
    batch_size: int = 128,
    microbatch: int | None = None,
    scope: str = "global",
    structure: str = "weight",
    prunable: Prunable | None = None,
    seed: int | None = None,
    min_keep: int = 0,
    allow_empty: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    verbose: int = 1,
    strategy: tf.distribute.Strategy | None = None,
) -> PruneResult:
    """Prunes a model at initialisation, in place.

    Afterwards the pruned weights are zero and stay zero under training (see `apply_masks`); every
    other weight and all other state of the model is as it was. On any error the model is exactly as
    before the call.

    Args:
        model: A built Keras model.
        data: What `fit` takes: a tuple (x, y) of arrays or of structures of arrays, a batched
            `tf.data.Dataset`, a `PyDataset`, a generator or any iterable of (x, y) batches; sample
            weights may follow y, and y may lack where the model brings its loss. `steps` + 1 batches
            are drawn, starting over when it ends; arrays are shuffled. None for the methods "synflow", "magnitude" and "random".
        sparsity: Fraction of the prunable weights to set to zero, in [0, 1). Of n weights exactly
            ⌈n (1 − sparsity)⌉ are kept; ties go to the lower index.
        method: "diagonal" (ProsPr with the streamed diagonal), "exact" (ProsPr's meta-gradient as
            the paper has it; keeps a copy of the weights a step), "first_order" (ProsPr's
            first-order variant), "snip", "grasp", "synflow" (in 100 iterations), "magnitude" or
            "random".
        curvature: For "diagonal": where the Hessian's diagonal comes from, "auto", "ggn", "ggn_mc",
            "hutchinson" or "row_sum"; see `prospr_ops.curvature.diagonal`.
        probes: Random vectors a step that the estimator averages over.
        steps: Steps of gradient descent, at least 0.
        learning_rate: Of those steps, at least 0.
        momentum: Of those steps, in [0, 1); as in PyTorch, w ← w − α v with v ← μ v + g.
        nesterov: Whether it is Nesterov's: w ← w − α (g + μ v); for "exact" and "first_order".
        loss: A Keras loss, its name, a function, or a list or dictionary of them by output, as
            `compile` takes it; None for the one the model is compiled with or adds. Regularisation
            losses of the model are added.
        batch_size: Samples a batch, where `data` is arrays.
        microbatch: Evaluate every batch in parts of at most so many samples, one after the other,
            which bounds the memory and changes the result by rounding only (and the draws of
            dropout). The loss must be a mean over samples that do not see each other. None: whole.
        scope: "global" ranks all weights together, "layer" prunes each layer by itself.
        structure: "weight", or "channel" to prune whole output channels and units, of functional and
            Sequential models, which `shrink` then removes. A channel is pruned with its bias and
            the gamma and beta of BatchNormalization behind it, and with all channels that it is tied
            to, by a residual sum for instance; so many together count once, and `sparsity` is the
            fraction of such groups. Channels that cannot go, as the model's outputs, are not among
            them. See `prospr_ops.pruning.channels.groups` for their scores.
        prunable: Which weights: None for the kernels of Dense, EinsumDense, Embedding, convolution,
            transposed, depthwise and separable convolution layers and recurrent cells; a function of
            (layer, variable); or variable paths, in which `*` and `?` are wildcards.
        seed: Of everything random in the call; None draws one (see `PruneResult.settings`). The
            same seed, model and data give the same masks, bit for bit, with the same number of
            intra-op threads on the same machine. Other numbers change convolutional networks by
            TensorFlow's rounding (see docs/long_runs.md).
        min_keep: At least so many weights (or channels) of each layer's kernel are kept, or all of
            one that has fewer, whatever their score; see `select`.
        allow_empty: Accept that a layer is left with no weight at all.
        checkpoint: A file for the state of the run, from which the same call, with the same model
            and data, goes on if this process is killed, to the same masks, bit for bit. Needs a
            `seed`, and data that come in the same order again. Written between steps, as long as
            that takes a twentieth of the time at most; deleted when the model is pruned. Methods
            without steps leave nothing there. See docs/long_runs.md.
        verbose: 0 is silent; 1 shows a progress bar and a table.
        strategy: A `tf.distribute` MirroredStrategy, MultiWorkerMirroredStrategy or
            OneDeviceStrategy, in whose scope the model was built; None for that of the scope which
            is open or that the model was built in. Its replicas share every batch, and the result
            is that of one process on whole batches but for rounding (and for draws of dropout and
            "ggn_mc", and for BatchNormalization, which normalises each replica's share by itself).
            Call it on every worker, with the same arguments and data: each takes its part, and all
            get the same masks. The seed is the first worker's. The loss must be a mean over samples.

    Returns:
        Masks, scores and a record of the run.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of range, the model is not built or has nothing to prune, the
            data is empty or does not fit the model, the loss or a derivative becomes NaN or
            infinite, or a layer would be left empty; `checkpoint` is damaged or of another run, or
            comes without a `seed` or with replicas; or workers were given different things.
        OSError: `checkpoint` cannot be read or written.
        tf.errors.OpError: Another worker is lost.
    """
    start = time.perf_counter()
    settings = Settings.among(locals())
    check_real("sparsity", sparsity, below=1.0)
    choose("scope", scope, SCOPES)
    min_keep = check_integer("min_keep", min_keep, at_least=0)
    target = Target(float(sparsity), scope, min_keep, allow_empty)
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
        ),
        data,
        show_progress=bool(verbose),
    )
    masks = target.masks(scored.scores, scored.channels)
    result = PruneResult(
        masks=PackedMasks(masks),
        scores=scored.scores,
        sparsity=float(sparsity),
        settings={
            **scored.settings,
            "scope": scope,
            "sparsity": float(sparsity),
            "min_keep": min_keep,
        },
        losses=scored.losses,
        estimators=scored.estimators,
        seconds=time.perf_counter() - start,
        uses=weight_uses(model, scored.inputs),
        input_shape=scored.sample_shape,
    )
    apply_masks(model, masks)  # the last that can fail
    scored.finish()
    if verbose:
        result.summary()
    return result


def score(
    model: keras.Model,
    data: Any,
    *,
    method: str = "diagonal",
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
    verbose: int = 1,
    strategy: tf.distribute.Strategy | None = None,
) -> Scores:
    """Scores the weights of a model and changes nothing in it.

    Args:
        model: A built Keras model.
        data: As for `prune`, like all that follow.
        method: The criterion.
        curvature: Where the Hessian's diagonal comes from.
        probes: Random vectors a step.
        steps: Steps of gradient descent.
        learning_rate: Of those steps.
        momentum: Of those steps.
        nesterov: Whether it is Nesterov's.
        loss: The loss; None for the compiled one.
        batch_size: Samples a batch, where `data` is arrays.
        microbatch: Samples that are evaluated at a time; None for the whole batch.
        structure: "weight" or "channel".
        prunable: Which weights.
        seed: Of everything random in the call.
        checkpoint: A file for the state of the run.
        verbose: 0 is silent; 1 shows a progress bar.
        strategy: Whose replicas share every batch.

    Returns:
        Logarithm of each weight's score, float32 (float64 for float64 weights), by variable path;
        larger is more important, −inf is least. Give it to `select`. The scores of "grasp" are
        signed, and are given as they are: larger is more important. Those of "synflow" are the
        whole model's; only `prune`, which knows the sparsity, goes on from there. With
        structure="channel", float64 vectors with an element for each group of channels, under the
        path of the first kernel that makes it; the masks that `select` makes of them are for
        `channel_masks`.

    Raises:
        TypeError: As for `prune`.
        ValueError: As for `prune`.
        OSError: As for `prune`.
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
