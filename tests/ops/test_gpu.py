"""Every op, and `prune`, on a GPU and on the CPU."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from convolutions import arrays_of
from curvature_calls import POOLED_SHAPES, SHAPES, pooled_calls
from problems import PROBLEMS

import prospr_ops as po
from prospr_ops import ops

pytestmark = pytest.mark.gpu

GPU = "GPU:0"
DEVICES = (GPU, "CPU:0")


@pytest.fixture(autouse=True)
def _whole_float32():
    """Products of 10-bit mantissas would be all the difference there is."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(before)


def _assert_on(tensor, device):
    assert device in tensor.device


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("size", [1, 7, 300_007])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gamma_ops_give_the_bits_of_the_cpu(dtype, size, in_graph):
    random = np.random.default_rng(size)
    curvature, gradient, *start = random.standard_normal((7, size)).astype(dtype) * 9
    start_sign = np.where(random.random(size) < 0.5, -1, 1).astype(np.int8)
    results = []
    for device in DEVICES:
        with tf.device(device):
            inputs = tf.constant(gradient), tf.constant(curvature)
            state = [tf.Variable(value) for value in start]
            sign = tf.Variable(start_sign)
            read_before = state[0].read_value()

            def steps(inputs=inputs, state=state, sign=sign):
                return (
                    *ops.gamma_update(state[2], sign, inputs[1], 0.1),
                    ops.gamma_step(state[0], state[1], sign, *inputs, 0.1),
                    ops.gamma_momentum_step(*state, *inputs, 0.1, 0.9),
                )

            outputs = (tf.function(steps) if in_graph else steps)()
            for output in outputs:
                _assert_on(output, device)
            np.testing.assert_array_equal(read_before, start[0])
            assert outputs[2]
            assert outputs[3]
            results.append([value.numpy() for value in (*outputs, *state, sign)])
    for gpu, cpu in zip(*results, strict=True):
        np.testing.assert_array_equal(gpu, cpu)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_steps_report_what_is_not_finite(bad):
    gradient = np.ones(5000, np.float32)
    gradient[4321] = bad
    with tf.device(GPU):
        state = [tf.Variable(tf.ones(5000)) for _ in range(5)]
        sign = tf.Variable(tf.ones(5000, tf.int8))
        ones = tf.ones(5000)
        for inputs, finite in (
            ((gradient, ones), False),
            ((ones, gradient), False),
            ((ones,) * 2, True),
        ):
            assert bool(ops.gamma_step(*state[:2], sign, *inputs, 0.1)) is finite
            assert bool(ops.gamma_momentum_step(*state, *inputs, 0.1, 0.9)) is finite


def test_bad_arguments_are_refused_as_on_the_cpu():
    with tf.device(GPU):
        state = [tf.Variable(tf.ones(5)) for _ in range(2)]
        sign = tf.Variable(tf.ones(5, tf.int8))
        for gradient, rate, message in (
            (tf.ones(4), 0.1, "gradient must have the same"),
            (tf.ones(5), -1.0, "finite and not negative"),
        ):
            with pytest.raises(ValueError, match=message):
                ops.gamma_step(*state, sign, gradient, tf.ones(5), rate)
        with pytest.raises(ValueError, match="at least one element"):
            ops.dense_curvature(tf.ones([0, 5]), tf.ones([2, 0, 3]))
        # Three windows do not tile four pixels.
        inputs, factors, derivative = tf.ones([1, 4, 2]), tf.ones([2, 1, 3, 5]), tf.ones([1, 4, 5])
        with pytest.raises(ValueError, match="spatial axes that divide those of the output"):
            ops.pooled_conv_curvature(inputs, factors, derivative, 1)
        with pytest.raises(ValueError, match="spatial axes that divide those of the output"):
            ops.pooled_conv_input_gradient(tf.ones([1, 2, 5]), factors, derivative, [4])


def _contractions():
    for shape in SHAPES:
        samples, columns, size, channels, outputs, kernel, strides, dilations, padding, groups = (
            shape
        )
        conv = {
            "samples": samples,
            "columns": columns,
            "size": size,
            "kernel": kernel,
            "strides": strides,
            "dilations": dilations,
            "padding": padding,
            "inputs": channels,
            "outputs": outputs,
            "seed": 0,
        }
        depthwise = groups > 1 and groups == channels
        options = {
            "strides": strides,
            "padding": padding,
            "dilation_rate": dilations,
            "groups": 1 if depthwise else groups,
            "depthwise": depthwise,
        }
        yield ops.conv_curvature, arrays_of(conv, np.float64), (kernel,), options
    random = np.random.default_rng(0)
    for middle in ((), (3,), (50,), (4, 5)):
        inputs = random.standard_normal((70, *middle, 66))
        factors = random.standard_normal((6, 70, *middle, 20))
        yield ops.dense_curvature, (inputs, factors), (), {}
        indices = random.integers(0, 20, (70, *middle))
        for index in (np.int32, np.int64):
            yield ops.embedding_curvature, (indices.astype(index), factors), (20,), {}


def _assert_agrees_with_the_cpu(operation, arrays, dtype):
    # By the same device: two round float64 to float16 differently.
    with tf.device("CPU:0"):
        operands = [
            tf.constant(array) if array.dtype.kind == "i" else tf.cast(array, dtype)
            for array in arrays
        ]

    def call(device, change=tf.identity):
        with tf.device(device):
            tensors = [o if o.dtype.is_integer else change(o) for o in operands]
            result = operation(*tensors)
            _assert_on(result, device)
            np.testing.assert_array_equal(result, operation(*tensors))
            return result.numpy().astype(np.float64)

    error = np.abs(call(GPU) - call("CPU:0"))
    tolerance = 1e-12 if dtype == "float64" else 2e-5
    assert (error <= tolerance * call("CPU:0", tf.abs)).all()


@pytest.mark.parametrize("contraction", list(_contractions()))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_contractions_agree_with_the_cpu(contraction, dtype):
    operation, arrays, arguments, options = contraction
    _assert_agrees_with_the_cpu(
        lambda *tensors: operation(*tensors, *arguments, **options), arrays, dtype
    )


@pytest.mark.parametrize("shape", POOLED_SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pooled_convolutions_agree_with_the_cpu(shape, dtype):
    for name, arrays, last, options in pooled_calls(shape):
        operation = getattr(ops, name)
        _assert_agrees_with_the_cpu(
            lambda *tensors, op=operation, last=last, options=options: op(
                *tensors, last, **options
            ),
            arrays,
            dtype,
        )


@pytest.mark.parametrize("shape", [(2, 5), (9001, 1), (35, 3), (6, 9, 9, 130)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-11)])
def test_batch_normalisation_agrees_with_the_cpu(dtype, tolerance, shape):
    random = np.random.default_rng(0)
    tensors = random.normal(1.0, 2.0, (3, *shape)).astype(dtype)
    vectors = random.normal(1.0, 2.0, (4, shape[-1])).astype(dtype)

    def results(device):
        with tf.device(device):
            x, y_gradient, u = map(tf.constant, tensors)
            scale, offset, *by = map(tf.constant, vectors)
            moments = ops.batch_moments(x)
            rest = x, scale, moments[-1], 1e-2
            found = [
                *moments,
                ops.batch_norm(x, scale, offset, *rest[2:]),
                *ops.batch_norm_gradient(y_gradient, *rest),
                *ops.batch_norm_second_gradient(u, *by, y_gradient, *rest),
            ]
            for values in found:
                _assert_on(values, device)
            return [values.numpy() for values in found]

    gpu = results(GPU)
    for values, again, expected in zip(gpu, results(GPU), results("CPU:0"), strict=True):
        np.testing.assert_array_equal(values, again)
        np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance * abs(expected).max())


@pytest.mark.parametrize("window", [(2, 2), (3, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pooling_gives_the_bits_of_the_cpu(dtype, window):
    random = np.random.default_rng(0)
    image = random.integers(-2, 3, (5, 17, 20, 33)).astype(dtype)  # ties in most windows
    image[0, :3, :3] = np.nan
    results = []
    for device in DEVICES:
        with tf.device(device):
            maxima, positions = ops.max_pool(tf.constant(image), window)
            unpooled = ops.max_unpool(maxima, positions, window, image.shape[1:3])
            found = [maxima, positions, unpooled, ops.gather_pooled(unpooled, positions, window)]
            for values in found:
                _assert_on(values, device)
            results.append([values.numpy() for values in found])
    for gpu, cpu in zip(*results, strict=True):
        np.testing.assert_array_equal(gpu, cpu)


def test_the_accumulator_is_added_to_and_not_overwritten():
    random = np.random.default_rng(0)
    with tf.device(GPU):
        inputs = tf.constant(random.standard_normal((8, 5, 6)), tf.float32)
        factors = tf.constant(random.standard_normal((10, 8, 5, 7)), tf.float32)
        half = ops.dense_curvature(inputs, factors[:4])
        whole = ops.dense_curvature(inputs, factors[4:], half)
        np.testing.assert_array_equal(half, ops.dense_curvature(inputs, factors[:4]))
        np.testing.assert_allclose(whole, ops.dense_curvature(inputs, factors), rtol=1e-5)


def test_an_index_that_is_no_word_counts_for_nothing():
    with tf.device(GPU):
        result = ops.embedding_curvature(tf.constant([[-1, 5, 2]]), tf.ones([1, 1, 3, 4]), 5)
    np.testing.assert_array_equal(result[2], np.ones(4))
    assert tf.reduce_sum(result) == 4


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("keep", "min_keep"), [(0, 0), (1, 0), (70_000, 0), (150_001, 5)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_select_gives_the_masks_of_the_cpu(dtype, keep, min_keep, packed):
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape) for shape in ((7,), (300, 700), (3, 5, 11))]
    arrays[0] -= 100
    arrays[1][:100] = 1.5
    masks = []
    for device in DEVICES:
        with tf.device(device):
            scores = [tf.cast(array, dtype) for array in arrays]
            masks.append(ops.select(scores, keep, min_keep=min_keep, packed=packed))
            _assert_on(masks[-1][0], device)
    for gpu, cpu in zip(*masks, strict=True):
        np.testing.assert_array_equal(gpu, cpu)


def test_select_refuses_nan():
    scores = [tf.zeros(5), tf.constant([1.0, np.nan])]
    with tf.device(GPU), pytest.raises(ValueError, match=r"scores\[1\] holds NaN"):
        ops.select(scores, 2)


# True of the subclassed problem, and what tests/files is about.
@pytest.mark.filterwarnings("ignore:model.save will not write the masks")
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("problem", PROBLEMS, ids=[problem.name for problem in PROBLEMS])
def test_prune_agrees_with_the_cpu(problem, momentum):
    results = []
    for device in DEVICES:
        with tf.device(device):
            keras.utils.set_random_seed(7)
            model = problem.model()
            arguments = {"loss": problem.loss, "seed": 2, "batch_size": 16, "momentum": momentum}
            result = po.prune(
                model, problem.data(), sparsity=0.4, allow_empty=True, verbose=0, **arguments
            )
            _assert_on(model.trainable_variables[0].value, device)
            results.append(result)
    gpu, cpu = results
    np.testing.assert_allclose(gpu.losses, cpu.losses, rtol=1e-4)
    assert gpu.kept == cpu.kept
    # Scores that are all but equal may change places.
    masks = zip(gpu.masks.values(), cpu.masks.values(), strict=True)
    different = sum(np.sum(on_gpu != on_cpu) for on_gpu, on_cpu in masks)
    assert different <= 2 + 0.01 * cpu.weights
