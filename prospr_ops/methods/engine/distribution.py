"""How the replicas of a `tf.distribute.Strategy` work together.

Every worker draws the same batches, and its replicas evaluate their shares of each batch. The
results are summed over all replicas, and each replica takes the step that follows on its own copy
of the variables. So variables that are equal on all replicas before a step are equal after it.

On a replica, code runs under `tf.distribute.StrategyExtended.update`: in one thread, replica after
replica, where a mirrored variable stands for the replica's own copy, for reading, for writing and
for ops that take its handle. `tf.distribute.Strategy.run` uses one thread per replica and switches
between them in the middle of a model, wherever a layer writes a variable, so that what is recorded
of a model's call (see `prospr_ops.network.layer_calls`) would mix two replicas.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.network import keras_private
from prospr_ops.network.loss import Batch
from prospr_ops.network.tracing import traced

_T = TypeVar("_T")

# Strategies with mirrored variables: every replica has its own copy.
MIRRORED = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
# Offset between the seeds of a model's layers on consecutive replicas.
_SEED_STRIDE = 0x9E3779B9


def strategy_for(
    model: keras.Model, strategy: tf.distribute.Strategy | None
) -> tf.distribute.Strategy:
    """The strategy with which a built model is scored.

    Args:
        model: A built model.
        strategy: The strategy that was asked for; None for the open scope's strategy, or else the
            one that the model was built under.

    Raises:
        TypeError: `strategy` is not a strategy.
        ValueError: The strategy is of an unsupported kind, the scope of another one is open, or the
            model was not built in its scope.
    """
    current, in_scope = tf.distribute.get_strategy(), tf.distribute.has_strategy()
    if strategy is None:
        strategy = current if in_scope else model.distribute_strategy
    if not isinstance(strategy, tf.distribute.Strategy):
        msg = f"strategy must be a tf.distribute.Strategy, not {type(strategy).__name__}"
        raise TypeError(msg)
    name = type(strategy).__name__.lstrip("_")
    if in_scope and strategy is not current:
        msg = f"strategy is a {name}, but the scope of a {type(current).__name__} is open"
        raise ValueError(msg)
    mirrored = isinstance(strategy, MIRRORED)
    is_default = strategy is current and not in_scope
    if not (mirrored or is_default or isinstance(strategy, tf.distribute.OneDeviceStrategy)):
        msg = (
            "strategy must be a MirroredStrategy, MultiWorkerMirroredStrategy or OneDeviceStrategy, "
            f"not a {name}"
        )
        raise ValueError(msg)
    for variable in model.variables:
        found = isinstance(variable.value, tf.distribute.DistributedValues)
        if found != mirrored or (mirrored and variable.value.distribute_strategy is not strategy):
            msg = (
                f"model {model.name!r} was not built in the scope of the {name}: its variable "
                f"{variable.path} is {'mirrored by another' if found else 'not mirrored'}; build "
                "or load it within `with strategy.scope():`"
            )
            raise ValueError(msg)
    return strategy


class Replicas:
    """The replicas of the strategy whose scope is open and that mirrors its variables.

    Attributes:
        numbers: Numbers of this worker's replicas among all replicas.
        total: Number of replicas of all workers.
    """

    def __init__(self, strategy: tf.distribute.Strategy, model: keras.Model) -> None:
        self._strategy = strategy
        # A variable that names the replicas and their devices in TensorFlow's calls.
        self._anchor = tf.Variable(0.0, trainable=False)
        self._seeds = keras_private.seed_states(model)
        self.total: int = strategy.num_replicas_in_sync
        numbers = strategy.experimental_distribute_values_from_function(
            lambda context: context.replica_id_in_sync_group
        )
        self.numbers: tuple[int, ...] = strategy.experimental_local_results(numbers)

        def places(value: tf.Tensor) -> tf.Tensor:
            """The value of every replica, gathered by a sum of one-hot vectors."""
            return self.sum(
                [[tf.one_hot(n, self.total, value, tf.zeros_like(value))] for n in self.numbers]
            )[0][0]

        self._places = traced(places)

    def map(self, function: Callable[[int], _T]) -> list[_T]:
        """Calls a function for each replica of this worker, 0, 1, …, in its context.

        The results are on the replicas' devices. Within a graph the calls run in parallel.
        """
        results: list[_T] = []
        self._strategy.extended.update(
            self._anchor, lambda _: results.append(function(len(results))), group=False
        )
        return results

    def evaluate(self, function: Callable[[Batch, float], _T], batch: Batch) -> list[_T]:
        """Calls a function with each replica's share of a batch, and the share's weight.

        Shares differ by one sample at most. A replica without samples (of a small batch) gets the
        first sample with weight 0, since all replicas must take part in the sums that follow. Each
        replica has its own layer seeds during the call; afterwards the seeds are equal again.
        """
        samples = int(keras.tree.flatten(batch.x)[0].shape[0])

        def on_replica(index: int) -> _T:
            number = self.numbers[index]
            start, end = (i * samples // self.total for i in (number, number + 1))
            share = batch.map(lambda array: array[start:end] if end > start else array[:1])
            with self._own_seeds(number):
                return function(share, (end - start) / samples)

        return self.map(on_replica)

    def sum(self, terms: Sequence[Sequence[tf.Tensor]]) -> list[list[tf.Tensor]]:
        """Sums tensors over the replicas of all workers (all-reduce).

        Args:
            terms: Tensors of each replica of this worker, with the same shapes on all replicas.

        Returns:
            The sums, for each replica of this worker: the same numbers on all replicas.
        """

        def of_replicas(values: Sequence[tf.Tensor]) -> Any:
            return self._strategy.experimental_distribute_values_from_function(
                lambda context: values[self.numbers.index(context.replica_id_in_sync_group)]
            )

        # TensorFlow batches the reductions only if it knows the device of each term.
        placed = self.map(lambda index: [tf.identity(term) for term in terms[index]])
        pairs = [(of_replicas(values), self._anchor) for values in zip(*placed, strict=True)]
        sums = self._strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs)
        local = [self._strategy.experimental_local_results(total) for total in sums]
        return [list(values) for values in zip(*local, strict=True)]

    def variable(self, initial_value: Any, dtype: Any) -> tf.Variable:
        """A mirrored variable as `tf.Variable` makes it, without broadcasting the initial value.

        All workers compute the same initial value. Sending it would take as many bytes as a
        reduction, and TensorFlow cannot send int8.
        """
        copies = []
        for like in self._strategy.experimental_local_results(self._anchor):
            with tf.device(like.device):
                copies.append(type(like)(initial_value, trainable=False, dtype=dtype))
        return type(self._anchor)(
            self._strategy, copies, self._anchor.aggregation, var_policy=self._anchor._policy
        )

    @contextmanager
    def _own_seeds(self, number: int) -> Iterator[None]:
        shift = tf.constant([number * _SEED_STRIDE, 0], tf.int64)
        seeds = self._seeds if number else []
        for seed in seeds:
            seed.assign(seed.value + tf.cast(shift, seed.value.dtype))
        yield
        for seed in seeds:
            seed.assign(seed.value - tf.cast(shift, seed.value.dtype))

    def first(self, value: int) -> int:
        """Returns the first worker's value."""
        return self._gather(value)[0]

    def check_same(self, name: str, *contents: Any) -> None:
        """Checks by a checksum that all workers have the same contents.

        Args:
            name: Name of the contents, for the message.
            contents: Tensors, arrays, variables or strings; None adds nothing.

        Raises:
            ValueError: The contents differ. All workers raise it.
        """
        if len(self.numbers) == self.total:
            return
        checksum = 0
        for content in contents:
            checksum = zlib.crc32(_bytes(content), checksum)
        if len(set(self._gather(checksum))) > 1:
            msg = (
                f"{name} must be the same on all workers, and differs: call prune and score with "
                "the same arguments everywhere"
            )
            raise ValueError(msg)

    def _gather(self, value: int) -> list[int]:
        """The values of all replicas; a worker's replicas have the same value."""
        return [int(one) for one in self._places(tf.constant(value, tf.int64))]

    def same_batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yields the batches, after checking that all workers have the same one.

        Raises:
            ValueError: A batch differs between workers.
        """
        for number, batch in enumerate(batches):
            self.check_same(f"batch {number} of data", *keras.tree.flatten(tuple(batch)))
            yield batch


_current: ContextVar[Replicas | None] = ContextVar("replicas", default=None)


def replicas() -> Replicas | None:
    """The replicas that currently share the batches; None if nothing is shared."""
    return _current.get()


def on_replicas(function: Callable[[], _T]) -> _T:
    """The result of a function without data, called on each replica if there are any."""
    sharing = replicas()
    return function() if sharing is None else sharing.map(lambda _: function())[0]


@contextmanager
def shared_by(strategy: tf.distribute.Strategy, model: keras.Model) -> Iterator[Replicas | None]:
    """Opens the scope of a strategy that `strategy_for` returned, and sets `replicas`.

    Variables created within the context are mirrored.
    """
    with strategy.scope():
        if not isinstance(strategy, MIRRORED):
            yield None
            return
        replicas = Replicas(strategy, model)

        def mirrored(create: Callable[..., tf.Variable], **options: Any) -> tf.Variable:
            if options["synchronization"] == tf.VariableSynchronization.ON_READ:
                return create(**options)  # a metric
            return replicas.variable(options["initial_value"], options["dtype"])

        with tf.variable_creator_scope(mirrored):
            token = _current.set(replicas)
            try:
                yield replicas
            finally:
                _current.reset(token)


def _bytes(content: Any) -> Any:
    if content is None:
        return b""
    array = np.asarray(content)
    if array.dtype.kind in "OSU":  # text
        return repr(array.tolist()).encode()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
