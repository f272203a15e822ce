"""Calls ops with random arguments, most of them wrong: a program, for a crash must not be pytest's.

    python tests/support/random_calls.py COUNT [SEED]

Each call starts from arguments that fit and puts something else in the place of some of them. Prints
a JSON object of how many calls of each op were accepted, refused, or raised what is no clean error.
Before every call its number is written to stderr, so a crash leaves it there.
"""

from __future__ import annotations

import collections
import faulthandler
import inspect
import json
import os
import random
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from prospr_ops import ops
from prospr_ops.ops._library import library, raises_value_error

CLEAN = (tf.errors.OpError, TypeError, ValueError)
# Megabytes beyond what the process has at its start: absurd sizes are to be refused, not granted.
MEMORY = 4000

DTYPES = ["float16", "bfloat16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool"]
SIZES = [0, 1, 2, 3, 4, 6, 7, 64]
INTEGERS = [-(2**63), -1, 0, 1, 2, 3, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1]
GARBAGE = [
    None,
    True,
    1.5,
    float("nan"),
    "valid",
    b"x",
    [],
    {},
    object(),
    [[1.0], [2.0, 3.0]],
    [None],
]


def shape(rng: random.Random) -> list[int]:
    if rng.random() < 0.1:
        return [0, 2**40][
            :: rng.choice([1, -1])
        ]  # the only huge tensors there are have no elements
    return [rng.choice(SIZES) for _ in range(rng.choice([0, 1, 2, 2, 3, 3, 4, 5, 6]))]


def tensor(
    rng: random.Random, dims: list[int] | None = None, dtype: str | None = None
) -> tf.Tensor:
    dims = shape(rng) if dims is None else dims
    while np.prod(dims) > 1e5:
        dims = dims[1:]
    values = np.random.default_rng(rng.randrange(2**32)).standard_normal(dims)
    if values.size and rng.random() < 0.2:
        values.flat[0] = rng.choice([np.nan, np.inf, -np.inf])
    with np.errstate(invalid="ignore"):
        return tf.cast(values, dtype or rng.choice(DTYPES))


def handle(rng: random.Random) -> Any:
    """A resource of another kind, or none."""
    variable = tf.Variable(tensor(rng, None, rng.choice(["float32", "float64", "int8"])))
    kinds = {
        "variable": lambda: variable.handle,
        "two": lambda: tf.stack([variable.handle, variable.handle]),
        "empty": lambda: tf.stack([variable.handle])[:0],
        "deleted": lambda: tf.Variable(1.0).handle,
        "uninitialised": lambda: tf.raw_ops.VarHandleOp(
            dtype=tf.float32, shape=[2, 3], shared_name=str(rng.random())
        ),
        "destroyed": lambda: (
            tf.raw_ops.DestroyResourceOp(resource=variable.handle),
            variable.handle,
        )[1],
        "table": lambda: tf.raw_ops.MutableHashTableV2(key_dtype=tf.int64, value_dtype=tf.float32),
        "iterator": lambda: tf.raw_ops.AnonymousIteratorV3(
            output_types=[tf.float32], output_shapes=[[]]
        ),
        "string": lambda: tf.constant("resource"),
        "number": lambda: tensor(rng),
    }
    return kinds[rng.choice(list(kinds))]()


def anything(rng: random.Random) -> Any:
    kind = rng.randrange(8)
    if kind < 4:
        return tensor(rng)
    if kind == 4:
        return rng.choice([*INTEGERS, 2**64])
    if kind == 5:
        return [rng.choice([*INTEGERS, 2**64]) for _ in range(rng.randrange(6))]
    if kind == 6:
        return handle(rng)
    return rng.choice(GARBAGE)


def like(rng: random.Random, value: Any) -> Any:
    """Something of `value`'s kind, with a shape, a type or a size of its own."""
    if isinstance(value, tf.Variable):
        return tf.Variable(like(rng, value.read_value()))
    if tf.is_tensor(value) and value.dtype == tf.resource:
        return handle(rng)
    if tf.is_tensor(value):
        if rng.random() < 0.5:
            return tensor(rng, value.shape.as_list())
        dims = value.shape.as_list()
        if dims and rng.random() < 0.7:
            dims[rng.randrange(len(dims))] = rng.choice(SIZES)
        else:
            dims = dims[1:] if dims and rng.random() < 0.5 else [rng.choice(SIZES), *dims]
        return tensor(rng, dims, value.dtype.name)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice(INTEGERS)
    if isinstance(value, (list, tuple)):
        changed = [like(rng, one) if rng.random() < 0.5 else one for one in value]
        return changed[1:] if rng.random() < 0.2 else changed
    if isinstance(value, str):
        return rng.choice(["valid", "SAME", "causal", "CAUSAL", "full", ""])
    if isinstance(value, tf.DType):
        return tf.as_dtype(rng.choice(DTYPES))
    return anything(rng)


def convolution(rng: random.Random) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Options of a convolution, and shapes that fit them."""
    axes = rng.randrange(1, 4)
    samples, columns, groups = (rng.randrange(1, 4) for _ in range(3))
    size = [rng.randrange(3, 8) for _ in range(axes)]
    kernel = [rng.randrange(1, 4) for _ in range(axes)]
    channels, outputs = groups * rng.randrange(1, 4), groups * rng.randrange(1, 4)
    padding = rng.choice(["valid", "same"])
    strides = [rng.randrange(1, 3) for _ in range(axes)]
    output = [
        (s - (k if padding == "valid" else 1)) // stride + 1
        for s, k, stride in zip(size, kernel, strides, strict=True)
    ]
    shapes = {
        "inputs": [samples, *size, channels],
        "kernel": [*kernel, channels // groups, outputs],
        "factors": [columns, samples, *output, outputs],
        "derivative": [samples, *output, outputs],
        "kernel_size": kernel,
        "input_size": size,
    }
    options = {"strides": strides, "padding": padding, "groups": groups}
    return options | {"dilation_rate": [1] * axes}, shapes


def sparse_filters(name: str, rng: random.Random, dtype: str) -> dict[str, Any]:
    """Arguments of an op of sparse convolution that fit."""
    kernel, output = ([rng.randrange(1, 4) for _ in "hw"] for _ in range(2))
    channels, filters, blocks = rng.randrange(1, 4), rng.randrange(1, 4), rng.randrange(1, 4)
    splits = np.cumsum([0, *(rng.randrange(4) for _ in range(filters))])
    taps = [rng.randrange(kernel[0] * kernel[1] * channels) for _ in range(splits[-1])]
    size = [a + b - 1 for a, b in zip(kernel, output, strict=True)]
    taps, splits = tf.constant(taps, tf.int32), tf.constant(splits, tf.int32)
    samples = rng.randrange(16 * blocks - 15, 16 * blocks + 1)
    fitting = {
        "image": tensor(
            rng, [blocks, *size, channels, *([] if name.endswith("small") else [16])], dtype
        ),
        "output_gradient": tensor(rng, [blocks, *output, filters, 16], dtype),
        "weights": tensor(rng, [len(taps)], dtype),
        "scale": tensor(rng, [filters], dtype),
        "residual": tensor(rng, [blocks, *output, filters, 16], dtype),
        "relu": rng.random() < 0.5,
        "ceiling": rng.choice([float("inf"), 6.0]),
        "bias": tensor(rng, [filters], dtype),
        "taps": taps,
        "splits": splits,
        "transposed": ops.transposed_pattern(taps, splits, channels),
        "image_size": size,
        "kernel_size": kernel,
        "strides": 1,
        "dilations": 1,
        "padding": "valid",
        "channels": channels,
        "blocks": tensor(rng, [blocks, 3, 16], dtype),
        "samples": samples if name == "from_blocks" else tensor(rng, [samples, 3], dtype),
    }
    return {
        argument: fitting[argument] for argument in inspect.signature(getattr(ops, name)).parameters
    }


def normalised_blocks(name: str, rng: random.Random, dtype: str) -> dict[str, Any]:
    """Arguments of an op of batch normalisation on blocks that fit."""
    samples, channels, relu = rng.randrange(1, 40), rng.randrange(1, 4), rng.random() < 0.5
    size = [
        -(-samples // 16),
        *[rng.randrange(1, 4) for _ in range(rng.randrange(3))],
        channels,
        16,
    ]
    fitting = {
        **{name: tensor(rng, size, dtype) for name in ("x", "y_gradient")},
        **{name: tensor(rng, [channels], dtype) for name in ("scale", "offset")},
        "moments": tensor(rng, [2, channels], "float64"),
        "epsilon": 1e-3,
        "samples": samples,
        "residual": tensor(rng, size, dtype) if relu and rng.random() < 0.5 else None,
        "relu": relu,
        "ceiling": rng.choice([float("inf"), 6.0]),
    }
    return {
        argument: fitting[argument] for argument in inspect.signature(getattr(ops, name)).parameters
    }


def call_of(name: str, rng: random.Random) -> dict[str, Any]:
    """Arguments of the public function `name` that fit."""
    dtype = rng.choice(["float32", "float64"])
    dims = [rng.randrange(1, 5) for _ in range(rng.randrange(1, 4))]
    if name == "select":
        scores = [tensor(rng, [rng.randrange(1, 9)], dtype) for _ in range(rng.randrange(1, 4))]
        return {"scores": scores, "keep": 1, "min_keep": 0, "packed": rng.random() < 0.5}
    if name.startswith("batch"):
        vectors = {"scale", "offset", "u_scale", "u_offset"}
        fitting = {
            argument: tensor(rng, dims[-1:] if argument in vectors else dims, dtype)
            for argument in inspect.signature(getattr(ops, name)).parameters
        }
        if name != "batch_moments":
            fitting |= {"moments": tensor(rng, [2, dims[-1]], "float64"), "epsilon": 1e-3}
        return fitting
    if name.startswith("block_"):
        return normalised_blocks(name, rng, dtype)
    if "pool" in name and "conv" not in name:
        window, size = ([rng.randrange(1, 4) for _ in "hw"] for _ in range(2))
        size = [a + b for a, b in zip(window, size, strict=True)]
        ends = [rng.randrange(1, 4), rng.randrange(1, 9)]
        pooled = [ends[0], *(a // b for a, b in zip(size, window, strict=True)), ends[1]]
        positions = tf.cast(tensor(rng, pooled, "int8"), tf.uint8)
        return {"window": window} | {
            "max_pool": {"image": tensor(rng, [ends[0], *size, ends[1]], dtype)},
            "gather_pooled": {
                "image": tensor(rng, [ends[0], *size, ends[1]], dtype),
                "positions": positions,
            },
            "max_unpool": {
                "values": tensor(rng, pooled, dtype),
                "positions": positions,
                "size": size,
            },
        }[name]
    if name.startswith("sparse") or "blocks" in name or name == "transposed_pattern":
        return sparse_filters(name, rng, dtype)
    if name.startswith("gamma"):
        states = {
            "gamma_update": ["log_gamma", "sign"],
            "gamma_step": ["weight", "log_gamma", "sign"],
            "gamma_momentum_step": ["weight", "velocity", "log_scale", "p", "q"],
        }[name]
        arguments = {
            state: tensor(rng, dims, "int8" if state == "sign" else dtype) for state in states
        }
        if name != "gamma_update":
            arguments = {state: tf.Variable(value) for state, value in arguments.items()}
            arguments["gradient"] = tensor(rng, dims, dtype)
        arguments |= {"curvature": tensor(rng, dims, dtype), "learning_rate": 0.1}
        return arguments | ({"momentum": 0.9} if name == "gamma_momentum_step" else {})
    if name == "embedding_curvature":
        indices = tf.constant(rng.randrange(3), rng.choice(["int32", "int64"]), dims)
        factors = tensor(rng, [2, *dims, 3], dtype)
        accumulator = tensor(rng, [3, 3], dtype)
        return {
            "indices": indices,
            "factors": factors,
            "vocabulary": 3,
            "accumulator": accumulator,
        }
    if name == "dense_curvature":
        return {
            "inputs": tensor(rng, [*dims, 4], dtype),
            "factors": tensor(rng, [2, *dims, 3], dtype),
            "accumulator": tensor(rng, [4, 3], dtype),
        }
    options, shapes = convolution(rng)
    names = {
        "conv_curvature": ["inputs", "factors"],
        "pooled_conv_curvature": ["inputs", "factors", "derivative"],
        "pooled_conv_input_gradient": ["kernel", "factors", "derivative"],
    }[name]
    arguments = {argument: tensor(rng, shapes[argument], dtype) for argument in names}
    if name == "pooled_conv_input_gradient":
        arguments["input_size"] = shapes["input_size"]
    else:
        arguments["kernel_size"] = shapes["kernel_size"]
        arguments["accumulator"] = tensor(rng, shapes["kernel"], dtype)
    return arguments | options


def of_the_op(arguments: dict[str, Any]) -> dict[str, Any]:
    """A public function's arguments as the compiled op takes them."""
    dtype = next((v.dtype for v in arguments.values() if isinstance(v, tf.Variable)), None)
    dtype = dtype or getattr(arguments.get("curvature"), "dtype", None)
    result = {}
    for name, value in arguments.items():
        if name == "vocabulary" or (name == "kernel_size" and "taps" not in arguments):
            continue
        if isinstance(value, tf.Variable):
            result[name] = value.handle
        elif name in {"learning_rate", "momentum"}:
            result[name] = tf.constant(value, dtype)
        elif name == "padding":
            result[name] = value.upper()
        elif name == "residual":
            result[name] = [] if value is None else [value]
        elif name == "packed":
            result["mask_type"] = tf.uint8 if value else tf.bool
        else:
            result["dilations" if name == "dilation_rate" else name] = value
    if "coefficients" in result:
        result["R"] = result["coefficients"].shape[0]
    return result


def placeholders(value: Any, rng: random.Random) -> Any:
    """`value` with the tensors in it unknown: shapes may be, or are of more than memory holds."""
    if isinstance(value, (list, tuple)):
        return [placeholders(one, rng) for one in value]
    if not isinstance(value, tf.Variable) and not tf.is_tensor(value):
        return value
    dims = [rng.choice([size] * 6 + [None, 2**31, 2**40, 2**62]) for size in value.shape]
    return tf.compat.v1.placeholder(value.dtype, rng.choice([dims, dims, None]))


def random_call(name: str, rng: random.Random) -> None:
    """Makes one call; what it raises is the caller's to judge."""
    arguments = call_of(name, rng)
    function = getattr(ops, name)
    variables = [value for value in arguments.values() if isinstance(value, tf.Variable)]
    # `transposed_pattern` is made of TensorFlow's own operations.
    compiled = rng.random() < 0.5 and hasattr(library, f"prospr_{name}")
    if compiled:
        arguments = of_the_op(arguments)
        # TensorFlow itself raises an OverflowError for a number that no dtype holds.
        function = raises_value_error(getattr(library, f"prospr_{name}"))
    # What TensorFlow itself does not survive: any number of outputs, and below, a tensor in the place
    # of an attribute, which it takes for a list of -1 elements, and attributes beyond 64 bits.
    names = [name for name in arguments if name != "R"]
    for argument in rng.sample(names, min(rng.choice([0, 1, 1, 1, 2, 3]), len(names))):
        attribute = compiled and not tf.is_tensor(arguments[argument])
        # A lone tensor of another shape is as good as the first, so it is exchanged for a wrong one more
        # often.
        if attribute or rng.random() < (0.6 if len(names) > 1 else 0.3):
            arguments[argument] = like(rng, arguments[argument])
        else:
            arguments[argument] = anything(rng)
    if rng.random() < 0.15:
        with tf.Graph().as_default():  # is built, and not run
            function(**{key: placeholders(value, rng) for key, value in arguments.items()})
    else:
        function(**arguments)
    del variables  # whose handles were given, and had to live until here


def main() -> None:
    faulthandler.enable()
    count, seed = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "0"
    ops.select([tf.zeros(3)], 1)  # loads what is loaded late
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY * 10**6, resource.RLIM_INFINITY))
    outcomes: dict[str, collections.Counter[str]] = {}
    for name in ops.__all__:
        outcomes[name] = collections.Counter(accepted=0, refused=0)
        for number in range(count):
            os.write(2, f"\r{name} {number}".encode())
            try:
                random_call(name, random.Random(f"{seed} {name} {number}"))
            except CLEAN:
                outcomes[name]["refused"] += 1
            except Exception as error:  # noqa: BLE001 - any other is what this looks for
                outcomes[name][f"unclean, number {number}: {error!r}"] += 1
            else:
                outcomes[name]["accepted"] += 1
    sys.stdout.write(json.dumps(outcomes))


if __name__ == "__main__":
    main()
