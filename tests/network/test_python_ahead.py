"""Python may call operations ahead of the kernels; nobody sees it but the clock."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.eager import context

import prospr_ops as po
from prospr_ops.network.tf_functions import python_ahead


def _is_ahead():
    return context.context().executor.is_async()


def test_everything_is_done_at_the_end():
    variable = tf.Variable(tf.ones((64, 64)))
    with python_ahead():
        assert _is_ahead()
        for _ in range(20):
            variable.assign(tf.linalg.matmul(variable, tf.eye(64)))
            variable.assign_add(tf.ones((64, 64)))
    assert not _is_ahead()
    np.testing.assert_array_equal(variable, np.full((64, 64), 21.0))


@pytest.mark.filterwarnings("error")
def test_what_fails_is_raised_and_nothing_lingers():
    wrong = tf.constant([7])
    with pytest.raises(tf.errors.InvalidArgumentError, match="not in"), python_ahead():
        tf.raw_ops.GatherV2(params=tf.ones(3), indices=wrong, axis=0)
    assert not _is_ahead()
    gc.collect()  # an executor that goes with an error says so
    assert float(tf.reduce_sum(tf.ones(3))) == 3.0


@pytest.mark.filterwarnings("error")
def test_an_exception_of_python_comes_through():

    def fails_twice():
        with python_ahead():
            tf.raw_ops.GatherV2(params=tf.ones(3), indices=tf.constant([7]), axis=0)
            return {}["mine"]

    with pytest.raises(KeyError, match="mine"):
        fails_twice()
    assert not _is_ahead()
    gc.collect()


def test_the_layer_that_refuses_its_input_is_named():
    words = layers.Input((4,), dtype="int32")
    x = layers.Embedding(5, 3, name="lookup")(words)
    model = keras.Model(words, layers.Dense(2)(layers.Flatten()(x)))
    initial = model.get_weights()
    data = np.full((8, 4), 9), np.zeros(8, int)
    with pytest.raises(ValueError, match=r"(?s)step 0.*Embedding.*not in \[0, 5\)"):
        po.prune(
            model,
            data,
            sparsity=0.5,
            loss="sparse_categorical_crossentropy",
            batch_size=2,
            verbose=0,
        )
    for ours, theirs in zip(model.get_weights(), initial, strict=True):
        np.testing.assert_array_equal(ours, theirs)
