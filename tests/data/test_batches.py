"""Batches out of whatever `fit` takes as data."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import prospr_ops as po
from prospr_ops.data.batches import endless_batches

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((24, 6)).astype("float32")
Y = RANDOM.standard_normal((24, 2)).astype("float32")
OPTIONS = {"method": "first_order", "steps": 3, "loss": "mse", "seed": 0, "verbose": 0}


def _model(sparse: bool = False) -> keras.Model:
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), sparse=sparse)
    hidden = layers.Dense(5, "tanh")(inputs)
    return keras.Model(inputs, layers.Dense(2)(hidden), name="net")


class InParts(keras.utils.PyDataset):
    """Three batches of eight."""

    ended = 0

    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = slice(8 * index, 8 * index + 8)
        return X[part], Y[part]

    def on_epoch_end(self):
        self.ended += 1


def _forever():
    while True:
        yield from InParts()


def _assert_same(one, other):
    for values, wanted in zip(one.values(), other.values(), strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1e-4)


def test_a_generator_and_a_pydataset_give_what_a_list_gives():
    expected = po.score(_model(), list(InParts()), **OPTIONS)
    dataset = InParts()
    _assert_same(po.score(_model(), dataset, **OPTIONS), expected)
    assert dataset.ended == 1  # four batches are drawn, of three
    _assert_same(po.score(_model(), _forever(), **OPTIONS), expected)
    exactly = itertools.islice(_forever(), 4)
    _assert_same(po.score(_model(), exactly, **OPTIONS), expected)


def test_a_generator_that_ends_too_early_is_refused():
    model = _model()
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(ValueError, match="data is a generator that ended after 3 batches"):
        po.prune(model, (batch for batch in InParts()), sparsity=0.5, **OPTIONS)
    for variable, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


def test_sparse_batches_are_what_they_are_when_dense():
    zeros = np.where(X > 0.3, X, 0.0).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((tf.sparse.from_dense(zeros), Y)).batch(8)
    for method in ("exact", "snip", "grasp"):
        options = {**OPTIONS, "method": method}
        dense = [(zeros[i : i + 8], Y[i : i + 8]) for i in (0, 8, 16)]
        found = po.score(_model(sparse=True), data, **options)
        _assert_same(found, po.score(_model(), dense, **options))
    with pytest.raises(
        ValueError, match="behind a sparse input; give dense batches, or use method"
    ):
        po.score(_model(sparse=True), data, **{**OPTIONS, "method": "diagonal"})


class SciPyLike:
    """What a sparse matrix of SciPy shows of itself here."""

    shape = (24, 6)

    def tocsr(self):
        return self


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((tf.sparse.from_dense(X), Y), "SparseTensor, of which rows cannot be shuffled"),
        ((SciPyLike(), Y), "SciPyLike, of which rows cannot be shuffled"),
        ([(tf.RaggedTensor.from_tensor(X), Y)], "RaggedTensor, of which a Keras model cannot"),
        (3.0, "not float"),
    ],
)
def test_arrays_that_cannot_be_taken(data, message):
    with pytest.raises(TypeError, match=message):
        next(endless_batches(data, 8, 0))


def test_a_sparse_batch_with_nan_is_refused():
    zeros = np.where(X > 0.3, X, 0.0)
    zeros[2, 3] = np.nan
    with pytest.raises(ValueError, match="x of batch 0 holds NaN"):
        po.score(_model(sparse=True), [(tf.sparse.from_dense(zeros), Y)], **OPTIONS)


@pytest.mark.parametrize("data", [{"x": X, "y": Y}, X, (X,), (X, None)])
def test_inputs_alone(data):
    batch = next(endless_batches(data, 8, 0))
    assert batch.y is None
    assert keras.tree.flatten(batch.x)[0].shape == (8, 6)


def test_inputs_of_another_shape_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"x of batch 0 has shape \(24, 5\).* takes \(None, 6\)$"):
        po.score(_model(), [(X[:, :5], Y)], **OPTIONS)


def test_a_sparse_batch_in_parts_is_refused():
    data = tf.data.Dataset.from_tensor_slices((tf.sparse.from_dense(X), Y)).batch(8)
    with pytest.raises(ValueError, match=r"microbatch needs .* a sparse batch cannot be cut"):
        po.score(_model(sparse=True), data, microbatch=4, **OPTIONS)
