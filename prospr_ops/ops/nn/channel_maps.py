"""Maps that combine tensors channel by channel, with derivatives of every order in two passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf
from tensorflow.python.eager.record import stop_recording

from prospr_ops import ops, reference
from prospr_ops.ops.normalisation import MOST_TENSORS


class Combination(NamedTuple):
    """What a rule says.

    Attributes:
        coefficients: float64 [R, k + 1, C], R may be 0: results r are the sums over i of
            coefficients[r, i] · tensor i, the last i standing for a tensor of ones.
        further: Further results, each float64 [C].
    """

    coefficients: tf.Tensor
    further: Sequence[tf.Tensor]


# A rule gets the tensors' products, as `ops.channel_products` gives them, and the parameters, each
# float64 [C].
Rule: TypeAlias = Callable[[tf.Tensor, Sequence[tf.Tensor]], Combination]


def channelwise(
    rule: Rule, tensors: Sequence[tf.Tensor], parameters: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Combines tensors as a rule says, which knows them by the sums of their products alone.

    The vector-Jacobian product of such a map is such a map again, of the upstream gradients and the
    tensors: the result y_r = Σ_i c_ri x_i has the derivatives ∂y_r/∂x_i = c_ri and, by what the c
    depend on, ∂L/∂c_ri = Σ x_i ∂L/∂y_r, a product, and ∂⟨x_i, x_j⟩/∂x_i = x_j. So a derivative of
    any order reads all tensors once to sum products and once to combine them.

    Args:
        rule: Says how, differentiably; hashable, and the same object for maps of the same kind, which
            then share its graph.
        tensors: k tensors [..., C] of one shape, float32 or float64.
        parameters: Each float64 [C].

    Returns:
        The results in the tensors' shape and dtype, then the further ones.
    """
    count = len(tensors)
    library = ops if count <= MOST_TENSORS else reference

    @tf.custom_gradient
    def mapped(*arguments: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., list[tf.Tensor]]]:
        x, own = arguments[:count], arguments[count:]
        # Before recording stops: derivatives within the rule need a tape.
        of_products = _traced(rule, count + 1, len(own))
        # `pullback` is all that a tape needs: it is not to record, and keep, how the results came about.
        with stop_recording():
            combination = of_products(library.channel_products(x), own)
            coefficients = tf.cast(combination.coefficients, x[0].dtype)
            results = library.channel_combinations(x, coefficients) if coefficients.shape[0] else []

        def pullback(*upstream: tf.Tensor) -> list[tf.Tensor]:
            by_result, by_further = upstream[: len(results)], upstream[len(results) :]
            transposed = _transposed(rule, len(results), count, len(own))
            return channelwise(transposed, [*by_result, *x], [*own, *by_further])

        return [*results, *combination.further], pullback

    return mapped(*tensors, *parameters)


@lru_cache(maxsize=256)
def _traced(rule: Rule, size: int, parameters: int) -> Callable[..., Any]:
    """A function that calls the rule, traced once for maps of any number of channels.

    A rule is dozens of operations on a few numbers, its derivatives hundreds. Not written out in the
    graph for every layer, they are optimised once: most of the time to the first step is that.
    """
    function = tf.function(rule, autograph=False, experimental_attributes={"_noinline": True})
    with tf.device(None):  # wherever the first map happens to be
        return function.get_concrete_function(
            tf.TensorSpec([size, size, None], tf.float64),
            (tf.TensorSpec([None], tf.float64),) * parameters,
        )


@lru_cache(maxsize=256)
def _transposed(rule: Rule, results: int, count: int, parameters: int) -> Rule:
    """The rule of the vector-Jacobian product.

    Its tensors are the gradients by the results, and then the `count` tensors of `rule`; its
    parameters are those of `rule`, and then the gradients by the further results.
    """

    def transposed(products: tf.Tensor, arguments: Sequence[tf.Tensor]) -> Combination:
        own, by_further = arguments[:parameters], arguments[parameters:]
        inner = products[results:, results:]
        with tf.GradientTape() as tape:
            tape.watch([inner, *own])
            combination = rule(inner, own)
        by_product, *by_parameters = tape.gradient(
            [*combination],
            [inner, *own],
            [products[:results, results:], [*by_further]],
            tf.UnconnectedGradients.ZERO,
        )
        direct = tf.transpose(combination.coefficients[:, :count], [1, 0, 2])
        by_tensor = (by_product + tf.transpose(by_product, [1, 0, 2]))[:count]
        return Combination(tf.concat([direct, by_tensor], axis=1), by_parameters)

    return transposed
