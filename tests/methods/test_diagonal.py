"""Method "diagonal" with batch normalisation: its eager passes against traced ones."""

import keras
import numpy as np
import pytest
from keras import layers

import prospr_ops as po
from prospr_ops.methods.engine import passes


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("curvature", ["auto", "hutchinson", "row_sum"])
@pytest.mark.parametrize("probes", [1, 3])
def test_eager_passes_find_what_traced_ones_find(monkeypatch, curvature, probes):
    """Dropout and batch statistics included: both begin a step in the same state."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input([6, 6, 2]),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3, seed=5),
            layers.Dense(3),
        ]
    )
    state = [variable.numpy() for variable in model.variables]
    random = np.random.default_rng(0)
    data = random.standard_normal([32, 6, 6, 2]), random.standard_normal([32, 3])
    found = []
    for most in (10**6, -1):
        monkeypatch.setattr(passes, "EAGER_PASSES", most)
        options = {"curvature": curvature, "probes": probes, "batch_size": 8, "seed": 1}
        masks = {"sparsity": 0.5, "loss": "mse", "learning_rate": 0.01, "verbose": 0}
        twin = keras.models.clone_model(model)
        twin.set_weights(model.get_weights())
        for variable, value in zip(twin.variables, state, strict=True):
            variable.assign(value)
        found.append(po.prune(twin, data, method="diagonal", **options, **masks))
    eager, traced = found
    assert list(eager.estimators.values()) == list(traced.estimators.values())
    np.testing.assert_allclose(eager.losses, traced.losses, rtol=1e-9)
    for ours, theirs in zip(eager.scores.values(), traced.scores.values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-7)
    if curvature == "auto":
        assert [name.split()[0] for name in eager.estimators.values()] == ["hutchinson", "ggn"]
