"""The training loss of a model as a function of a batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import keras
import tensorflow as tf

from prospr_ops.network import keras_private
from prospr_ops.network.direct_calls import layers_called_directly
from prospr_ops.network.restore import preserved
from prospr_ops.network.second_derivatives import ctc_loss
from prospr_ops.network.tf_functions import moments, replaced

Loss: TypeAlias = (
    str | keras.losses.Loss | Callable[[Any, Any], Any] | Sequence[Any] | Mapping[str, Any]
)

# What code that looks at values raises where there are none yet.
_ONLY_EAGER = (AttributeError, NotImplementedError, TypeError)
# By these names Keras takes the cross-entropy that fits the targets.
_BY_TARGETS = ("crossentropy", "ce")


class Batch(NamedTuple):
    """One batch: inputs and targets in whatever structure the model takes, and sample weights."""

    x: Any
    y: Any
    sample_weight: Any = None

    def map(self, function: Callable[[Any], Any]) -> Batch:
        """The batch with `function` applied to each of its arrays."""
        mapped = keras.tree.map_structure(function, tuple(self), none_is_leaf=False)
        return Batch(*mapped)


class LossCall(NamedTuple):
    """The arguments and the result of a loss: one number per sample, before the average."""

    target: Any
    prediction: Any
    losses: Any


@contextmanager
def recorded_loss(loss: keras.losses.Loss) -> Iterator[list[LossCall]]:
    """Records the calls of a Keras loss while the context is open."""
    calls: list[LossCall] = []
    plain_call = loss.call

    def recording_call(target: Any, prediction: Any) -> Any:
        losses = plain_call(target, prediction)
        calls.append(LossCall(target, prediction, losses))
        return losses

    own = "call" in vars(loss)
    loss.call = recording_call
    try:
        yield calls
    finally:
        if own:
            loss.call = plain_call
        else:
            del loss.call


class LabelRange(NamedTuple):
    """Class indices that are accepted: 0 to `classes` − 1, and `ignored` if it is not None."""

    classes: int
    ignored: int | None


def _not_divided(loss: tf.Tensor) -> tf.Tensor:
    """A mean as Keras gives it, times the replicas that it divides it by under tf.distribute.

    There it is to be summed over the replicas; here means are averaged.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return loss * replicas if replicas > 1 else loss


@dataclass(eq=False)
class Objective:
    """Loss of `model` in training mode on a batch, its regularisation losses included.

    Attributes:
        model: The Keras model.
        loss: The loss as it was given; None for the one that the model was compiled with.
        compiled: What `model.compile` makes of it, by which it is computed: names, functions and
            structures are resolved, and ranks, masks and sample weights treated, as in `fit`. None
            where the model computes the whole loss by itself.
        scale: What derivatives are multiplied by on their way through the model, so that they do
            not vanish in float16; 1 for other models, and before `set_scale`.
    """

    model: keras.Model
    loss: Loss | None = None
    compiled: keras_private.CompileLoss | None = None
    scale: float = 1.0

    @classmethod
    def of(cls, model: keras.Model, loss: Loss | None) -> Objective:
        """Resolves the loss.

        Raises:
            ValueError: No loss is given and the model was compiled with none, or the name is
                unknown to Keras.
            TypeError: `loss` is not a loss, a name, a function or a structure of such.
        """
        if loss is None:
            if not model.compiled and not _has_own(model, "compute_loss"):
                msg = (
                    f"no loss is given and model {model.name!r} is not compiled with one; pass "
                    "loss= a Keras loss or its name, or compile the model"
                )
                raise ValueError(msg)
            return cls(model, None, keras_private.compiled_loss(model))
        resolved = keras.tree.map_structure(lambda one: _resolved(one, model), loss)
        if all(one is None for one in keras.tree.flatten(resolved)):
            msg = f"loss must be a Keras loss, its name or a function, and {loss!r} holds none"
            raise ValueError(msg)
        return cls(model, loss, keras_private.loss_as_compiled(resolved, model))

    def __call__(
        self, batch: Batch, replacements: Mapping[str, Callable[..., Any]] | None = None
    ) -> tf.Tensor:
        """The scalar loss, which can be differentiated twice.

        Args:
            batch: The batch.
            replacements: What the model's layers get to call in place of functions of tf.nn, by
                name; None for nothing but moments whose second derivative is right, and a CTC loss
                that refuses its own.
        """
        mended = {"moments": moments, "ctc_loss": ctc_loss}
        with (
            replaced(mended | dict(replacements or {})),
            keras_private.last_axis_as_minus_one(),
            keras_private.averages_left_alone(self.model),
            layers_called_directly(self.model),
        ):
            prediction = self._predict(batch.x)
        with replaced(mended):
            loss = _not_divided(self._of(batch, prediction))
        if self.loss is None:
            return loss  # what the model adds is in it
        added = [tf.reduce_sum(tf.cast(one, loss.dtype)) for one in self.model.losses]
        return tf.add_n([loss, *added])

    def _predict(self, x: Any) -> Any:
        """What the model predicts in training.

        Raises:
            ValueError: A layer computes in Python what TensorFlow cannot trace.
        """
        try:
            return self.model(x, training=True)
        except _ONLY_EAGER as error:
            if tf.executing_eagerly():
                raise
            msg = f"model {self.model.name!r} cannot be traced: {_in_short(error)}"
            raise ValueError(msg) from error

    def _of(self, batch: Batch, prediction: Any) -> tf.Tensor:
        """The loss of a prediction: what was given, or what the model's training step takes."""
        if self.loss is None or self.compiled is None:
            x, y, sample_weight = batch
            return keras_private.total_loss(self.model, x, y, prediction, sample_weight)
        return self.compiled(batch.y, prediction, batch.sample_weight)

    def build(self, batch: Batch) -> dict[int, LabelRange]:
        """Builds what Keras builds of a loss when it is first called, which a tf.function forbids.

        The model is not run, and of a functional one nothing is traced: no state is changed and
        nothing is drawn. Only a model that has to run eagerly is called, on the whole batch.

        Args:
            batch: The first batch.

        Returns:
            For each target that is class indices, by its number in the flattened `batch.y`, the
            accepted ones.

        Raises:
            ValueError: The loss cannot be computed on such a batch, or there is none.
        """
        labels: dict[int, LabelRange] = {}

        def build(x: Any, y: Any, sample_weight: Any, prediction: Any = None) -> None:
            with keras.StatelessScope(collect_losses=True) as scope:
                if prediction is None:
                    prediction = self._predict(x)
                if self.compiled is None and not (scope.losses or self._computes_its_own()):
                    raise _NoLoss
                if self.compiled is None and not self._computes_its_own():
                    return

                symbolic = Batch(x, y, sample_weight)
                self._of(symbolic, prediction)
                labels.update(
                    _labels(
                        self.losses(),
                        keras.tree.flatten(y),
                        lambda: self._of(symbolic, prediction),
                    )
                )

        arguments = list(batch.map(_symbolic))
        outputs = None if self._computes_its_own() else keras_private.output_structure(self.model)
        if outputs is not None and self.compiled is not None:
            samples = next(x for x in keras.tree.flatten(batch.x) if x is not None).shape[0]
            arguments.append(
                keras.tree.map_structure(
                    lambda one: keras.KerasTensor((samples, *one.shape[1:]), one.dtype), outputs
                )
            )
        try:
            keras_private.compute_output_spec(build, *arguments)
        except _NoLoss:
            raise ValueError(_no_loss(self.model)) from None
        except Exception:  # noqa: BLE001 - whatever a model that only runs eagerly raises
            try:
                if not self.model.run_eagerly:
                    raise
                with preserved(self.model):
                    self(batch)
            except (KeyError, ValueError, *_ONLY_EAGER) as error:
                msg = (
                    f"the loss of model {self.model.name!r} cannot be computed on such a batch: "
                    f"{_in_short(error)}"
                )
                raise ValueError(msg) from error
        return labels

    @property
    def needs_scale(self) -> bool:
        """Whether the model computes in float16."""
        layers = keras_private.all_layers(self.model)
        return any(layer.compute_dtype == "float16" for layer in layers)

    def set_scale(self, batch: Batch) -> None:
        """Finds a scale for a model that computes in float16, as Keras's LossScaleOptimizer does.

        It is the largest power of 8, up to 2^15, at which a gradient still has room to grow 64-fold.
        """
        if not self.needs_scale:
            return
        variables = [variable.value for variable in self.model.trainable_variables]
        with preserved(self.model):
            with tf.GradientTape(persistent=True) as tape:
                loss = self(batch)
            for exponent in range(21, 5, -3):
                seed = tf.cast(2.0**exponent, loss.dtype)
                found = tape.gradient(loss, variables, output_gradients=seed)
                dense = [tf.convert_to_tensor(g) for g in found if g is not None]
                if all(bool(tf.reduce_all(tf.math.is_finite(g))) for g in dense):
                    self.scale = 2.0 ** (exponent - 6)
                    return

    def prediction(self, x: Any) -> Any:
        """The model's prediction as symbolic tensors, without running it."""
        outputs = keras_private.output_structure(self.model)
        if outputs is not None:
            return outputs
        x = keras.tree.map_structure(_symbolic, x)
        return keras_private.compute_output_spec(self.model, x, training=False)

    def losses(self) -> list[tuple[keras.losses.Loss, Any]]:
        """The losses, of which the total is a sum, with their weights or None; none before `build`."""
        return [] if self.compiled is None else keras_private.losses_and_weights(self.compiled)

    def single_loss(self) -> keras.losses.Loss | None:
        """The Keras loss whose plain value, plus `model.losses`, this objective is; or None.

        None before `build`, and for a model with several losses, with loss weights or with its own
        `compute_loss`.
        """
        losses = self.losses()
        if self._computes_its_own() or len(losses) != 1 or losses[0][1] is not None:
            return None
        return losses[0][0]

    def label_range(self, classes: int) -> LabelRange | None:
        """The accepted labels of a model with so many classes, if its one loss takes class indices.

        Known before `build`, of a single loss.
        """
        loss = self.model.loss if self.loss is None else self.loss
        if isinstance(loss, str) and loss.lower() not in _BY_TARGETS:
            loss = keras.losses.get(loss)
        return LabelRange(classes, _ignored(loss)) if _takes_labels(loss) else None

    @property
    def needs_targets(self) -> bool:
        """Whether it cannot do without targets."""
        return self.compiled is not None and not self._computes_its_own()

    def _computes_its_own(self) -> bool:
        return self.loss is None and _has_own(self.model, "compute_loss")


class _NoLoss(Exception):
    """Nothing in the model or its compilation is a loss."""


def _has_own(model: keras.Model, method: str) -> bool:
    """Whether the model's class overrides a method of `keras.Model`."""
    return getattr(type(model), method) is not getattr(keras.Model, method)


def _no_loss(model: keras.Model) -> str:
    if _has_own(model, "train_step"):
        return (
            f"no loss is given, and model {model.name!r} trains by a train_step of its own, out of "
            "which a loss cannot be taken; pass loss= the one it minimises, or override compute_loss"
        )
    return (
        f"no loss is given, model {model.name!r} is compiled with none and its layers add none; "
        "pass loss= a Keras loss or its name, or compile the model with it"
    )


def _resolved(loss: Any, model: keras.Model) -> Any:
    """A leaf of what was given as the loss, for Keras to compile.

    Raises:
        TypeError: It is not a loss, a name, a function or None.
        ValueError: Keras knows no loss of that name.
    """
    if loss is None or isinstance(loss, keras.losses.Loss):
        return loss
    if isinstance(loss, str):
        if loss.lower() in _BY_TARGETS:
            return loss
        function = keras.losses.get(loss)
    elif callable(loss):
        function = loss
    else:
        msg = f"loss must be a Keras loss, its name or a function, not {type(loss).__name__}"
        raise TypeError(msg)
    if model.compute_dtype != "float64" or isinstance(function, keras.losses.Loss):
        return loss
    # Keras would compute it in float32, in a float64 model too.
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", "loss")
    return keras_private.LossFunctionWrapper(function, name=name, dtype="float64")


def _symbolic(array: Any) -> keras.KerasTensor:
    dtype = keras.backend.standardize_dtype(array.dtype)
    return keras.KerasTensor(array.shape, dtype, sparse=isinstance(array, tf.SparseTensor))


def _takes_labels(loss: Any) -> bool:
    """Whether the targets of a loss are class indices."""
    if isinstance(loss, keras_private.LossFunctionWrapper):
        loss = loss.fn
    return loss is keras.losses.sparse_categorical_crossentropy


def _ignored(loss: Any) -> int | None:
    return getattr(loss, "ignore_class", None)


def _labels(
    losses: Sequence[tuple[keras.losses.Loss, Any]],
    targets: Sequence[tf.Tensor],
    total: Callable[[], Any],
) -> dict[int, LabelRange]:
    """The accepted class indices, by the number of the target that a loss is given in a graph."""
    sparse = {id(loss): loss for loss, _ in losses if _takes_labels(loss)}
    if not sparse:
        return {}
    numbers = {id(target): number for number, target in enumerate(targets)}
    labels = {}
    with ExitStack() as recording:
        calls = [(loss, recording.enter_context(recorded_loss(loss))) for loss in sparse.values()]
        total()
        for loss, of_loss in calls:
            for call in of_loss:
                number = numbers.get(id(_origin(call.target)))
                if number is not None:
                    labels[number] = LabelRange(call.prediction.shape[-1], _ignored(loss))
    return labels


def _origin(tensor: tf.Tensor) -> tf.Tensor:
    """What a tensor of a graph is a cast of."""
    while tensor.op.type in ("Cast", "Identity"):
        tensor = tensor.op.inputs[0]
    return tensor


def _in_short(error: Exception) -> str:
    """The first line of a message that says something, and what may help."""
    plain = re.sub(r"\x1b\[\d*m", "", str(error))
    lines = [line.strip() for line in plain.splitlines()]
    lines = [line for line in lines if line and not line.startswith("Exception encountered")]
    said = lines[0] if lines else f"{type(error).__name__} without a message"
    if not isinstance(error, _ONLY_EAGER):
        return said
    return f"{said}; if it runs only eagerly, compile the model with run_eagerly=True"
