from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import keras
import pytest
import tensorflow as tf

import prospr_ops as po
from prospr_ops.methods.engine import passes

# The first example of a property test compiles or loads things; a deadline would only measure that.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.load_profile("default")


def _why_no_gpu() -> str | None:
    if not po.build_info()["cuda"]:
        return "NOT RUN: this build of prospr_ops has no CUDA kernels (PROSPR_CUDA)"
    if not tf.config.list_physical_devices("GPU"):
        return "NOT RUN ON HARDWARE: TensorFlow sees no GPU; the CUDA kernels were only emulated"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a GPU where there is none, and says so in the summary."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (reason := _why_no_gpu()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    keras.utils.set_random_seed(7)


@pytest.fixture
def traced(monkeypatch) -> None:
    """Passes are traced, however few they are."""
    monkeypatch.setattr(passes, "EAGER_PASSES", -1)


@pytest.fixture(params=["eager", "traced"])
def execution(request, monkeypatch) -> str:
    """How all passes are run, however many they are: one way, and then the other."""
    many = 10**6
    monkeypatch.setattr(passes, "EAGER_PASSES", many if request.param == "eager" else -1)
    return request.param


@pytest.fixture
def float64() -> Iterator[None]:
    """Layers are made in float64."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])
