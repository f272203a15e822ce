"""Models of KerasHub: prune, fit, save, load, fit, strip, export, with small random ones of each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import prospr_ops as po

keras_hub = pytest.importorskip(
    "keras_hub", reason="NOT RUN: KerasHub is not installed (pip install 'prospr_ops[hub]')"
)

# KerasHub's and TensorFlow Text's own warnings are not ours to mend; masks that model.save leaves out
# are expected here, and `po.save_model` keeps them.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

SAMPLES, WORDS, LENGTH, CLASSES = 8, 40, 6, 3
RANDOM = np.random.default_rng(0)
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SIZES = {"vocabulary_size": WORDS, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 24}


def _tokens() -> np.ndarray:
    return RANDOM.integers(1, WORDS, (SAMPLES, LENGTH)).astype("int32")


def _mask() -> np.ndarray:
    return np.ones((SAMPLES, LENGTH), "int32")


def _labels() -> np.ndarray:
    return RANDOM.integers(0, CLASSES, SAMPLES)


def _next(tokens: np.ndarray) -> np.ndarray:
    return np.roll(tokens, -1, axis=1)


def bert() -> tuple[keras.Model, Any, Any]:
    backbone = keras_hub.models.BertBackbone(num_heads=2, max_sequence_length=LENGTH, **SIZES)
    x = {"token_ids": _tokens(), "segment_ids": 0 * _mask(), "padding_mask": _mask()}
    return keras_hub.models.BertTextClassifier(backbone, CLASSES), x, _labels()


def gpt2() -> tuple[keras.Model, Any, Any]:
    backbone = keras_hub.models.GPT2Backbone(num_heads=2, max_sequence_length=LENGTH, **SIZES)
    x = {"token_ids": _tokens(), "padding_mask": _mask()}
    return keras_hub.models.GPT2CausalLM(backbone), x, _next(x["token_ids"])


def gemma() -> tuple[keras.Model, Any, Any]:
    backbone = keras_hub.models.GemmaBackbone(
        num_query_heads=2, num_key_value_heads=1, head_dim=8, **SIZES
    )
    x = {"token_ids": _tokens(), "padding_mask": _mask()}
    return keras_hub.models.GemmaCausalLM(backbone), x, _next(x["token_ids"])


def vit() -> tuple[keras.Model, Any, Any]:
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(16, 16, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24
    )
    x = RANDOM.standard_normal((SAMPLES, 16, 16, 3)).astype("float32")
    return keras_hub.models.ViTImageClassifier(backbone, CLASSES), x, _labels()


def resnet() -> tuple[keras.Model, Any, Any]:
    backbone = keras_hub.models.ResNetBackbone(
        [64], [3], [64, 8], [1, 1], [1, 2], "basic_block", image_shape=(16, 16, 3)
    )
    x = RANDOM.standard_normal((SAMPLES, 16, 16, 3)).astype("float32")
    return keras_hub.models.ResNetImageClassifier(backbone, CLASSES), x, _labels()


def _with_head(backbone: keras.Model, output: str) -> keras.Model:
    hidden = backbone.output[output]
    return keras.Model(backbone.input, keras.layers.Dense(WORDS, name="words")(hidden))


def t5() -> tuple[keras.Model, Any, Any]:
    backbone = keras_hub.models.T5Backbone(num_heads=2, **SIZES)
    x = {
        "encoder_token_ids": _tokens(),
        "encoder_padding_mask": _mask(),
        "decoder_token_ids": _tokens(),
        "decoder_padding_mask": _mask(),
    }
    model = _with_head(backbone, "decoder_sequence_output")
    return model, x, _next(x["decoder_token_ids"])


def whisper() -> tuple[keras.Model, Any, Any]:
    backbone = keras_hub.models.WhisperBackbone(
        num_heads=2,
        num_mels=4,
        max_encoder_sequence_length=12,
        max_decoder_sequence_length=LENGTH,
        **SIZES,
    )
    x = {
        "encoder_features": RANDOM.standard_normal((SAMPLES, 12, 4)).astype("float32"),
        "decoder_token_ids": _tokens(),
        "decoder_padding_mask": _mask(),
    }
    model = _with_head(backbone, "decoder_sequence_output")
    return model, x, _next(x["decoder_token_ids"])


MODELS: dict[str, Callable[[], tuple[keras.Model, Any, Any]]] = {
    make.__name__: make for make in (bert, gpt2, gemma, vit, resnet, t5, whisper)
}


def _made(name: str) -> tuple[keras.Model, Any, Any]:
    keras.backend.clear_session(free_memory=False)
    model, x, y = MODELS[name]()
    model.compile(keras.optimizers.AdamW(1e-3), LOGITS)
    return model, x, y


def _pruned(name: str, **options: Any) -> tuple[keras.Model, Any, Any, po.PruneResult]:
    model, x, y = _made(name)
    options = {"sparsity": 0.5, "steps": 1, "scope": "layer", **options}
    result = po.prune(model, (x, y), batch_size=4, seed=0, verbose=0, **options)
    return model, x, y, result


def _zeros(model: keras.Model) -> int:
    """Zeros in all matrices."""
    return sum(int((v.numpy() == 0).sum()) for v in model.trainable_variables if v.ndim > 1)


def _outputs(model: keras.Model, x: Any) -> np.ndarray:
    return np.asarray(model.predict(x, batch_size=4, verbose=0))


@pytest.mark.parametrize("name", MODELS)
def test_from_pruning_to_the_file_that_is_delivered(name, tmp_path):
    model, x, y, result = _pruned(name)
    pruned = result.weights - result.kept
    assert pruned >= result.weights // 2 - len(result.masks)
    model.fit(x, y, batch_size=4, epochs=1, verbose=0)
    held = {path: ~mask for path, mask in result.masks.items()}
    by_path = {variable.path: variable for variable in model.variables}
    assert all(not by_path[path].numpy()[gone].any() for path, gone in held.items())
    assert any(by_path[path].numpy()[~gone].any() for path, gone in held.items())

    po.save_model(model, tmp_path / "model.keras")
    loaded = po.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(_outputs(loaded, x), _outputs(model, x), rtol=1e-5, atol=1e-5)
    loaded.compile(keras.optimizers.AdamW(1e-3), LOGITS)
    loaded.fit(x, y, batch_size=4, epochs=1, verbose=0)
    assert _zeros(loaded) >= pruned

    plain = po.strip(loaded)
    np.testing.assert_allclose(_outputs(plain, x), _outputs(loaded, x), rtol=1e-5, atol=1e-5)
    po.export(loaded, tmp_path / "exported")
    served = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(
        np.asarray(served.serve(keras.tree.map_structure(tf.convert_to_tensor, x))),
        np.asarray(loaded(x)),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_the_data(name):
    model, x, y = _made(name)
    options = {"batch_size": 4, "steps": 1, "seed": 0, "verbose": 0}
    one = po.score(model, (x, y), **options)
    other = po.score(model, (x, np.flip(y)), **options)
    assert any(not np.array_equal(one[path], other[path]) for path in one)
    assert np.mean([np.isfinite(values).mean() for values in one.values()]) > 0.5


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_lora_on_a_stripped_model_keeps_the_zeros_of_the_frozen_kernels(name):
    model, x, y, _ = _pruned(name)
    plain = po.strip(model)
    plain.backbone.enable_lora(2)
    plain.compile(keras.optimizers.AdamW(1e-2), LOGITS)
    before = _frozen_zeros(plain)
    assert before > 0
    plain.fit(x, y, batch_size=4, verbose=0)
    assert _frozen_zeros(plain) == before


def _frozen_zeros(model: keras.Model) -> int:
    return sum(
        int((v.numpy() == 0).sum())
        for v in model.non_trainable_variables
        if v.ndim > 1 and v.dtype == "float32"
    )


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_int8_keeps_the_zeros_of_a_stripped_model(name):
    model, x, _, result = _pruned(name)
    plain = po.strip(model)
    plain.quantize("int8")
    zeros = sum(int((v.numpy() == 0).sum()) for v in plain.variables if v.ndim > 1)
    assert zeros >= result.weights - result.kept
    assert np.isfinite(_outputs(plain, x)).all()
