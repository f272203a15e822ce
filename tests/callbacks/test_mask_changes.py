"""Masks that change within fit: GradualPruning and DynamicSparsity."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import prospr_ops as po
from prospr_ops.data import datasets
from prospr_ops.pruning.masks import mask_of
from prospr_ops.pruning.target import kept_count

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(1e-2),
    "adamw_ema": lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1, use_ema=True),
    "accumulating": lambda: keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2),
}


def data(n=64):
    random = np.random.default_rng(0)
    x = random.normal(size=(n, 6)).astype("f")
    return x, (x[:, 0] > 0).astype("i") + (x[:, 1] > 0)


def built(optimizer="adam", **compiled):
    keras.utils.set_random_seed(1)
    keras.utils.clear_session()
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(3),
        ],
        name="net",
    )
    made = OPTIMIZERS[optimizer]() if isinstance(optimizer, str) else optimizer
    model.compile(made, keras.losses.SparseCategoricalCrossentropy(True), **compiled)
    return model


class Watch(keras.callbacks.Callback):
    """Notes masks, nonzero weights and traces after every batch."""

    def __init__(self):
        super().__init__()
        self.masks: list[list[np.ndarray]] = []

    def on_train_batch_end(self, _batch, **_):
        kernels = [layer.kernel for layer in self.model.layers]
        self.masks.append([mask_of(kernel).copy() for kernel in kernels])
        for kernel, mask in zip(kernels, self.masks[-1], strict=True):
            assert not kernel.numpy()[~mask].any()


def fit(model, *callbacks, epochs=2, batch_size=4, **options):
    return model.fit(
        *data(), batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[*callbacks], **options
    )


def kept(masks):
    return sum(int(mask.sum()) for mask in masks)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradual_pruning_follows_the_cubic(optimizer):
    model, watch = built(optimizer), Watch()
    pruning = po.callbacks.GradualPruning(0.9, begin=2, end=12, every=2)
    fit(model, pruning, watch)
    size = sum(layer.kernel.numpy().size for layer in model.layers)
    half = 2 if optimizer == "accumulating" else 1  # two batches per step there
    for batch, masks in enumerate(watch.masks):
        step = (batch + 1) // half
        last = step if step >= 12 or step < 2 else step - (step - 2) % 2
        time = min(max(last - 2, 0) / 10, 1.0)
        # Zhu and Gupta, equation 1, with an initial sparsity of 0.
        expected = 0.9 * (1 - (1 - time) ** 3)
        assert kept(masks) == kept_count(size, expected), (batch, step)
    for before, after in zip(watch.masks, watch.masks[1:], strict=False):
        assert all((a <= b).all() for a, b in zip(after, before, strict=True))
    assert pruning.sparsity == pytest.approx(0.9, abs=1 / size)


def test_the_masks_are_by_magnitude_and_hold_after_training():
    model = built("sgd")
    fit(model, po.callbacks.GradualPruning(0.5, begin=1, end=1, every=1), epochs=1, batch_size=64)
    values = np.concatenate([layer.kernel.numpy().ravel() for layer in model.layers])
    masks = np.concatenate([mask_of(layer.kernel).ravel() for layer in model.layers])
    twin = built("sgd")
    fit(twin, epochs=1, batch_size=64)
    dense = np.abs(np.concatenate([layer.kernel.numpy().ravel() for layer in twin.layers]))
    order = np.argsort(-dense, kind="stable")[: kept_count(dense.size, 0.5)]
    np.testing.assert_array_equal(np.flatnonzero(masks), np.sort(order))
    np.testing.assert_allclose(np.abs(values[masks]), dense[masks], rtol=1e-5)
    fit(model, epochs=1)  # without the callback
    assert not any(layer.kernel.numpy()[~mask_of(layer.kernel)].any() for layer in model.layers)


@pytest.mark.parametrize("callback", ["gradual", "gradient", "random"])
def test_nothing_is_traced_anew(callback):
    traces = []

    class Counted(keras.layers.Dense):
        def call(self, inputs):
            traces.append(1)
            return super().call(inputs)

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), Counted(16, activation="relu"), Counted(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    made = {
        "gradual": lambda: po.callbacks.GradualPruning(0.8, begin=0, end=16, every=1),
        "gradient": lambda: po.callbacks.DynamicSparsity(0.8, every=2),
        "random": lambda: po.callbacks.DynamicSparsity(0.8, every=2, grow="random"),
    }[callback]()
    fit(model, made, epochs=1)
    once = len(traces)
    fit(model, made, epochs=1)  # a second fit makes one new training function
    per_fit = len(traces) - once
    fit(model, made, epochs=4)
    assert len(traces) - once - per_fit == per_fit <= 4


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("grow", ["gradient", "random"])
def test_dynamic_sparsity_moves_weights_at_equal_counts(optimizer, grow):
    model, watch = built(optimizer), Watch()
    sparse = po.callbacks.DynamicSparsity(
        0.75, every=2, fraction=0.5, grow=grow, end=12, scope="layer"
    )
    fit(model, sparse, watch)
    for masks in watch.masks:
        assert [int(mask.sum()) for mask in masks] == [
            kept_count(mask.size, 0.75) for mask in masks
        ]
    moved = [
        sum(int((a & ~b).sum()) for a, b in zip(after, before, strict=True))
        for before, after in zip(watch.masks, watch.masks[1:], strict=False)
    ]
    assert sum(moved) > 0
    half = 2 if optimizer == "accumulating" else 1
    assert all(
        count == 0
        for batch, count in enumerate(moved, start=2)
        if batch % (2 * half) or batch // half > 12
    )
    assert sparse.sparsity == pytest.approx(0.75, abs=3 / 400)


class Snapshot(keras.callbacks.Callback):
    """Notes the weights and masks before a step and the weights after it, before masks change."""

    def on_train_batch_begin(self, _batch, **_):
        self.before = self.model.get_weights()
        self.masks = [mask_of(layer.kernel) for layer in self.model.layers]

    def on_train_batch_end(self, _batch, **_):
        self.after = [layer.kernel.numpy() for layer in self.model.layers]


def test_growth_is_where_the_gradient_is_largest():
    """Against the gradient by a tape, at the same weights and on the same batch."""
    x, y = data(16)
    model, seen = built("sgd"), Snapshot()
    sparse = po.callbacks.DynamicSparsity(0.5, every=1, fraction=0.4, end=100)
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[seen, sparse])
    twin = built("sgd")
    twin.set_weights(seen.before)
    with tf.GradientTape() as tape:
        loss = keras.losses.SparseCategoricalCrossentropy(True)(y, twin(x))
    gradients = tape.gradient(loss, [layer.kernel.value for layer in twin.layers])
    fraction = 0.4 * (1 + np.cos(np.pi * 2 / 100)) / 2  # at step 2
    moved = 0
    for layer, mask, weights, gradient in zip(
        model.layers, seen.masks, seen.after, gradients, strict=True
    ):
        kept = int(mask.sum())
        moving = min(int(fraction * kept), mask.size - kept)
        expected = np.zeros(mask.size, bool)
        size = np.where(mask, np.abs(weights), -np.inf).ravel()
        expected[np.argsort(-size, kind="stable")[: kept - moving]] = True
        gain = np.where(expected, -np.inf, np.abs(gradient.numpy()).ravel())
        expected[np.argsort(-gain, kind="stable")[:moving]] = True
        np.testing.assert_array_equal(mask_of(layer.kernel).ravel(), expected)
        moved += moving
    assert moved > 10


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_states_of_what_changes_are_zero(optimizer):
    model = built(optimizer)
    fit(model, po.callbacks.GradualPruning(0.8, begin=16, end=16), epochs=1)
    states = [v for v in model.optimizer.variables if v.shape == model.layers[1].kernel.shape]
    assert len(states) >= (2 if optimizer == "adam" else 1)
    mask = mask_of(model.layers[1].kernel)
    assert all(not state.numpy()[~mask].any() and state.numpy()[mask].all() for state in states)


def test_a_method_with_data():
    model = built("adam")
    pruning = po.callbacks.GradualPruning(
        0.8, begin=0, end=10, every=5, method="snip", data=data(), scope="layer", batch_size=32
    )
    fit(model, pruning, epochs=1)
    for layer in model.layers:
        assert mask_of(layer.kernel).sum() == kept_count(layer.kernel.numpy().size, 0.8)


@pytest.mark.parametrize("kind", ["gradual", "dynamic"])
@pytest.mark.parametrize("first", [True, False])
def test_training_resumes_from_a_checkpoint(tmp_path, kind, first):
    """Interrupted after two of four epochs, in another process's place, it ends as without."""

    def made():
        if kind == "gradual":
            return po.callbacks.GradualPruning(0.9, begin=4, end=44, every=4)
        return po.callbacks.DynamicSparsity(0.75, every=5, fraction=0.5, end=45)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, *_):
            if epoch == 2:
                raise KeyboardInterrupt

    whole = built("adam")
    fit(whole, made(), epochs=4, shuffle=False)

    def callbacks():
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        return [backup, made()] if first else [made(), backup]

    with pytest.raises(KeyboardInterrupt):
        fit(built("adam"), *callbacks(), Stop(), epochs=4, shuffle=False)
    resumed = built("adam")
    fit(resumed, *callbacks(), epochs=4, shuffle=False)
    for one, other in zip(whole.layers, resumed.layers, strict=True):
        np.testing.assert_array_equal(mask_of(one.kernel), mask_of(other.kernel))
        np.testing.assert_allclose(one.kernel, other.kernel, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_with_grown_weights_that_have_not_moved(tmp_path):
    """Their places are not known, but their number is, and all that is not zero is kept."""
    model = built("sgd")
    fit(model, po.callbacks.DynamicSparsity(0.75, every=16, fraction=0.5, end=99), epochs=1)
    model.save_weights(tmp_path / "net.weights.h5")
    nonzero = [layer.kernel.numpy() != 0 for layer in model.layers]
    counts = [int(mask_of(layer.kernel).sum()) for layer in model.layers]
    assert sum(mask.sum() for mask in nonzero) < sum(counts)
    resumed, watch = built("sgd"), Watch()
    resumed.optimizer.build(resumed.trainable_variables)
    resumed.load_weights(tmp_path / "net.weights.h5")
    assert int(resumed.optimizer.iterations) == 16
    fit(resumed, po.callbacks.DynamicSparsity(0.75, every=64, fraction=0.5), watch, epochs=1)
    assert [int(mask.sum()) for mask in watch.masks[0]] == counts
    assert all((a >= b).all() for a, b in zip(watch.masks[0], nonzero, strict=True))


def test_dynamic_sparsity_begins_with_the_masks_of_prune():
    model = built("sgd")
    result = po.prune(model, data(), sparsity=0.6, method="snip", verbose=0)
    fit(model, po.callbacks.DynamicSparsity(every=4), epochs=1)
    after = {layer.kernel.path: mask_of(layer.kernel) for layer in model.layers}
    assert {p: m.sum() for p, m in after.items()} == {p: m.sum() for p, m in result.masks.items()}
    assert any((after[path] != result.masks[path]).any() for path in after)


def test_a_pruned_model_is_stripped_and_saved(tmp_path):
    model = built("adam")
    fit(model, po.callbacks.GradualPruning(0.9, begin=0, end=8, every=2))
    po.save_model(model, tmp_path / "net.keras")
    loaded = po.load_model(tmp_path / "net.keras")
    plain = po.strip(model)
    for one, other, stripped in zip(model.layers, loaded.layers, plain.layers, strict=True):
        np.testing.assert_array_equal(mask_of(one.kernel), mask_of(other.kernel))
        np.testing.assert_array_equal(one.kernel, stripped.kernel)


@pytest.mark.parametrize("options", [{"steps_per_execution": 4}, {"run_eagerly": True}])
def test_other_ways_to_run_steps(options):
    model, watch = built("sgd", **options), Watch()
    fit(model, po.callbacks.DynamicSparsity(0.75, every=4, fraction=0.5), watch, epochs=1)
    assert any((a != b).any() for a, b in zip(watch.masks[0], watch.masks[-1], strict=True))
    model = built("sgd", **options)
    fit(model, po.callbacks.GradualPruning(0.9, begin=0, end=9, every=3), epochs=1)
    kernels = [layer.kernel.numpy() for layer in model.layers]
    size = sum(kernel.size for kernel in kernels)
    assert sum(np.count_nonzero(kernel) for kernel in kernels) == kept_count(size, 0.9)


def test_half_precision_and_scaled_losses():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = built(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2)))
    finally:
        keras.config.set_dtype_policy("float32")
    fit(model, po.callbacks.DynamicSparsity(0.75, every=4, fraction=0.5, scope="layer"), epochs=2)
    for layer in model.layers:
        assert mask_of(layer.kernel).sum() == kept_count(layer.kernel.numpy().size, 0.75)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: po.callbacks.GradualPruning(1.0, 0, 10), "final_sparsity must be at least 0"),
        (lambda: po.callbacks.GradualPruning(0.5, 10, 5), "end must not be before begin, 10"),
        (lambda: po.callbacks.GradualPruning(0.5, 0, 5, 0), "every must be at least 1"),
        (lambda: po.callbacks.GradualPruning(0.5, 0, 5, schedule="sine"), "'cubic', 'linear'"),
        (lambda: po.callbacks.GradualPruning(0.5, 0, 5, method="snip"), "uses data"),
        (lambda: po.callbacks.DynamicSparsity(0.5, 10, 1.0), "fraction must be at least 0"),
        (lambda: po.callbacks.DynamicSparsity(0.5, grow="best"), "'gradient', 'random'"),
        (lambda: po.callbacks.DynamicSparsity(-1), "sparsity must be at least 0"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_models_that_cannot_be_pruned_are_unchanged():
    bare = keras.Sequential([keras.Input((6,)), keras.layers.BatchNormalization()])
    bare.compile("sgd", "mse")
    with pytest.raises(ValueError, match="nothing to prune"):
        bare.fit(data()[0], data()[0], callbacks=[po.callbacks.DynamicSparsity(0.5)], verbose=0)
    with pytest.raises(ValueError, match="has no masks, and sparsity is None"):
        fit(built(), po.callbacks.DynamicSparsity())
    model = built()
    po.prune(model, data(), sparsity=0.6, method="snip", verbose=0)
    with pytest.raises(ValueError, match=r"has masks already, of sparsity 0\.6"):
        fit(model, po.callbacks.DynamicSparsity(0.9))
    with pytest.raises(ValueError, match=r"sparsity is 0\.6 already"):
        fit(model, po.callbacks.GradualPruning(0.5, 0, 10))
    late = built()
    fit(late)
    with pytest.raises(ValueError, match="the optimizer has taken 32 steps already"):
        fit(late, po.callbacks.GradualPruning(0.5, 0, 10))


def test_training_that_ends_early_is_said():
    with pytest.warns(UserWarning, match="training ended at step 16, before"):
        fit(built(), po.callbacks.GradualPruning(0.9, 0, 100, 2), epochs=1)


def test_both_beat_random_masks_on_digits():
    """LeNet-5 at 99 %, on the package's digits: by a margin that no seed makes."""
    digits = datasets.mnist(datasets._MNIST_SAMPLE)
    steps = 6 * 60

    def error(callback):
        keras.utils.set_random_seed(0)
        keras.utils.clear_session()
        model = po.models.lenet5()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
        x, y = digits.x_train, digits.y_train
        model.fit(x, y, batch_size=100, epochs=6, verbose=0, callbacks=[callback])
        masks = [mask_of(layer.kernel) for layer in model.layers if layer.weights]
        assert kept(masks) == kept_count(sum(mask.size for mask in masks), 0.99)
        right = model.evaluate(digits.x_test, digits.y_test, batch_size=500, verbose=0)[1]
        return 100 * (1 - right)

    gradual = error(po.callbacks.GradualPruning(0.99, begin=0, end=steps // 2, every=20))
    moving = error(po.callbacks.DynamicSparsity(0.99, every=20))
    held = error(po.callbacks.DynamicSparsity(0.99, every=20, fraction=0.0))
    assert gradual < 25, (gradual, moving, held)
    assert moving < held - 20, (gradual, moving, held)
