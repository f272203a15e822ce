"""Patterns against their twins, which loop over groups and blocks; and in networks."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

import prospr_ops as po
from prospr_ops.network.orientation import kernel_axes
from prospr_ops.network.weights import owned_weights
from prospr_ops.pruning.arrays import Kernels
from prospr_ops.pruning.selection import kept_of
from prospr_ops.pruning.target import Target, kept_count
from prospr_ops.utils.axes import Axes


def _scores(draw, shape, levels):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if levels is None:
        return rng.standard_normal(shape).astype(np.float32)
    values = rng.integers(0, levels, shape).astype(np.float32)
    return np.where(values == 0, -np.inf, values).astype(np.float32)


@given(data=st.data())
def test_n_of_m_are_the_best_of_each_group(data):
    m = data.draw(st.integers(2, 8))
    n = data.draw(st.integers(1, m - 1))
    rest = data.draw(st.lists(st.integers(1, 3), max_size=2))
    shape = (*rest, m * data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5)))
    levels = data.draw(st.sampled_from([None, 1, 2, 5]))
    scores = {"kernel": _scores(data.draw, shape, levels)}
    axes = Axes((len(shape) - 2,), (len(shape) - 1,))
    target = Target.of(pattern=f"{n}:{m}")
    mask = kept_of(scores, target, Kernels(axes={"kernel": axes}))["kernel"]
    twin = po.reference.best_n_of_m(scores["kernel"], n, m, axis=len(shape) - 2)
    np.testing.assert_array_equal(mask, twin, strict=True)
    assert mask.sum() == mask.size // m * n


@given(data=st.data())
def test_blocks_with_the_largest_sums_stay(data):
    a, b = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    levels = data.draw(st.sampled_from([None, 1]))
    scores = {}
    for number in range(data.draw(st.integers(1, 3))):
        rest = data.draw(st.lists(st.integers(1, 3), max_size=2))
        shape = (*rest, a * data.draw(st.integers(1, 4)), b * data.draw(st.integers(1, 4)))
        scores[f"kernel_{number}"] = _scores(data.draw, shape, levels)
    axes = {path: Axes((v.ndim - 2,), (v.ndim - 1,)) for path, v in scores.items()}
    sparsity = data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.99]))
    scope = data.draw(st.sampled_from(["global", "layer"]))
    target = Target.of(sparsity=sparsity, pattern=f"{a}x{b}", scope=scope)
    masks = kept_of(scores, target, Kernels(axes=axes))
    sums = [po.reference.block_sums(array, a, b) for array in scores.values()]
    if scope == "global":
        wanted = po.reference.select(sums, kept_count(sum(s.size for s in sums), sparsity))
    else:
        wanted = [po.reference.select([s], kept_count(s.size, sparsity))[0] for s in sums]
    for mask, blocks in zip(masks.values(), wanted, strict=True):
        whole = blocks.repeat(a, axis=-2).repeat(b, axis=-1)
        np.testing.assert_array_equal(mask, whole, strict=True)


def test_sums_of_blocks_neither_overflow_nor_vanish():
    scores = {"kernel": np.float32([[800, 800], [-900, -899], [-np.inf, -np.inf], [799, 0]])}
    axes = {"kernel": Axes((0,), (1,))}
    for sparsity, rows in ((0.75, [0]), (0.5, [0, 3]), (0.25, [0, 1, 3])):
        target = Target.of(sparsity=sparsity, pattern="1x2")
        mask = kept_of(scores, target, Kernels(axes=axes))["kernel"]
        assert np.flatnonzero(mask.all(axis=1)).tolist() == rows


def test_signed_scores_are_summed_and_what_is_pruned_adds_nothing():
    scores = {"kernel": np.float32([[5, -6], [-np.inf, 1], [-np.inf, -np.inf]])}
    axes = {"kernel": Axes((0,), (1,))}
    target = Target.of(sparsity=0.5, pattern="1x2")
    mask = kept_of(scores, target, Kernels(axes=axes, signed=True))["kernel"]
    assert mask.tolist() == [[True, True], [True, True], [False, False]]


# A layer, its input, and for each kernel the axis of groups and the number that follows there.
LAYERS = {
    "dense": (layers.Dense(8), (4,), 0),
    "conv 2d": (layers.Conv2D(8, 3), (6, 6, 4), 2),
    "transposed conv": (layers.Conv2DTranspose(8, 3), (6, 6, 4), 3),
    "einsum": (layers.EinsumDense("abc,cde->abde", (None, 2, 4)), (3, 4), 0),
    "einsum of the back": (layers.EinsumDense("abde,dec->abc", (None, 8)), (3, 1, 4), 1),
    "recurrent": (layers.SimpleRNN(4), (3, 4), 0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_groups_lie_along_the_inputs_of_each_layer(name):
    layer, shape, axis = LAYERS[name]
    layer = type(layer).from_config(layer.get_config())
    model = keras.Sequential([keras.Input(shape), layer])
    result = po.prune(model, None, pattern="2:4", method="magnitude", verbose=0)
    for path, scores in result.scores.items():
        twin = po.reference.best_n_of_m(scores, 2, 4, axis=axis)
        np.testing.assert_array_equal(result.masks[path], twin, err_msg=path)


def test_a_depthwise_convolution_has_no_input_axis():
    model = keras.Sequential([keras.Input((6, 6, 4)), layers.DepthwiseConv2D(3)])
    with pytest.raises(ValueError, match="its input axis has 1 elements, no multiple of 4"):
        po.prune(model, None, pattern="2:4", method="magnitude", verbose=0)
    result = po.prune(model, None, pattern="1x4", sparsity=0.5, method="magnitude", verbose=0)
    (mask,) = result.masks.values()
    assert (mask.all(axis=2) == mask.any(axis=2)).all()


def _lenet5():
    return po.models.lenet5(), (28, 28, 1), 10


def _resnet20():
    return po.models.resnet20(), (32, 32, 3), 10


def _transformer():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(16, 8)(inputs)
    for _ in range(2):
        y = layers.MultiHeadAttention(2, 4)(x, x)
        x = layers.LayerNormalization()(x + y)
        y = layers.Dense(8)(layers.Dense(16, activation="relu")(x))
        x = layers.LayerNormalization()(x + y)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(4)(x)), (6,), 4


def _divisible(layer, variable):
    """Kernels whose inputs and outputs a group of four divides, as far as these networks go."""
    if isinstance(layer, layers.EinsumDense):
        return variable is layer.kernel
    shape = variable.shape
    return len(shape) > 1 and not shape[-2] % 4 and not shape[-1] % 4


def _holds(pattern, mask, axes):
    arranged = axes.arranged(mask)
    rest, inputs, outputs = arranged.shape
    if pattern == "2:4":
        return (arranged.reshape(rest, inputs // 4, 4, outputs).sum(axis=2) == 2).all()
    a, b = (4, 1) if pattern == "4x1" else (1, 4)
    blocks = arranged.reshape(rest, inputs // a, a, outputs // b, b)
    return (blocks.all(axis=(2, 4)) == blocks.any(axis=(2, 4))).all()


@pytest.mark.filterwarnings("ignore:model.save will not write the masks")
@pytest.mark.parametrize(
    ("make", "pattern", "rounds"),
    [
        (_lenet5, "2:4", 2),
        (_lenet5, "4x1", 1),
        (_resnet20, "2:4", 1),
        (_resnet20, "1x4", 2),
        (_transformer, "2:4", 1),
        (_transformer, "4x1", 3),
        (_transformer, "1x4", 1),
    ],
)
def test_a_pattern_outlives_training_and_files(make, pattern, rounds, tmp_path):
    model, shape, classes = make()
    rng = np.random.default_rng(0)
    if len(shape) == 1:
        x = rng.integers(0, 16, (16, *shape))
    else:
        x = rng.random((16, *shape), np.float32)
    data = (x, np.arange(16) % classes)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    options = {} if pattern == "2:4" else {"sparsity": 0.75}
    result = po.prune(
        model, data, pattern=pattern, rounds=rounds, method="snip", prunable=_divisible, seed=0,
        batch_size=8, min_keep=4, verbose=0, **options,
    )  # fmt: skip
    axes = {path: kernel_axes(*owner) for path, owner in owned_weights(model).items()}
    assert all(_holds(pattern, mask, axes[path]) for path, mask in result.masks.items())
    share = 2 if pattern == "2:4" else 4
    each = 1 if pattern == "2:4" else 4
    assert result.kept == -(-(result.weights // each) // share) * each
    assert f"pattern {pattern}" in result.rows().title

    model.fit(*data, epochs=2, batch_size=8, verbose=0)

    def assert_pattern(network):
        # A network that was loaded may have other paths.
        values = [variable.numpy() for variable in network.trainable_variables]
        paths = [variable.path for variable in model.trainable_variables]
        weights = dict(zip(paths, values, strict=True))
        for path, mask in result.masks.items():
            assert not weights[path][~mask].any()
            assert weights[path][mask].any()

    assert_pattern(model)
    po.save_model(model, tmp_path / "model.keras")
    again = po.load_model(tmp_path / "model.keras")
    assert_pattern(again)
    again.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    again.fit(*data, batch_size=8, verbose=0)
    assert_pattern(again)
    assert_pattern(po.strip(model))
    result.save(tmp_path / "masks.npz")
    loaded = po.PruneResult.load(tmp_path / "masks.npz")
    assert loaded.settings["pattern"] == pattern
    for path, mask in result.masks.items():
        np.testing.assert_array_equal(loaded.masks[path], mask)
    po.report([loaded], tmp_path / "report.html")
    assert pattern in (tmp_path / "report.html").read_text()
