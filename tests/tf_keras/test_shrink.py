"""`shrink` on `tf_keras` models: as in `tests/test_shrink.py`."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from tf_keras import layers

import smart_tf
from tests import architectures
from tests.architectures import (
    assert_same_outputs,
    cut_half,
    inputs_for,
    randomise,
    shapes,
    zero,
)


@pytest.mark.parametrize(
    "builder, zeros, expected",
    architectures.CASES,
    ids=architectures.names_of(architectures.CASES),
)
def test_channels_that_are_zero_everywhere_go_and_others_stay(builder, zeros, expected):
    model = randomise(builder(tf_keras))
    zero(model, zeros)
    small = smart_tf.shrink(model)
    assert_same_outputs(model, small, inputs_for(model))
    found = shapes(small)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("builder", architectures.BUILDERS)
def test_half_of_every_group(builder):
    model = randomise(builder(tf_keras))
    groups = smart_tf.channels.find_groups(model)
    kept = cut_half(model, groups)
    small = smart_tf.shrink(model)
    assert_same_outputs(model, small, inputs_for(model))
    assert small.count_params() == groups.costs("params").total(kept)
    assert small.count_params() < model.count_params()


def test_operators_in_the_graph():
    image = tf_keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 1, name="conv")(image)
    s = tf.reduce_mean(x, axis=[1, 2], keepdims=True)
    s = tf.sigmoid(layers.Conv2D(8, 1, name="gate")(s))
    x = tf.nn.relu(x) * s
    x = tf.concat([x, tf.maximum(x, 0.0) / 2.0 - x], axis=-1)
    x = tf.transpose(layers.Conv2D(6, 1, name="after")(x), (0, 2, 1, 3))
    x = layers.GlobalMaxPooling2D()(x)
    model = randomise(tf_keras.Model(image, layers.Dense(4, name="last")(x)))
    zero(model, {"conv": [0, 1, 2], "after": [5]})
    small = smart_tf.shrink(model)
    assert_same_outputs(model, small, inputs_for(model))
    found = shapes(small)
    assert found["conv"] == (1, 1, 3, 5) and found["gate"] == (1, 1, 5, 5)
    assert found["after"] == (1, 1, 10, 5) and found["last"] == (5, 4)


def test_an_operator_that_names_the_number_of_channels_closes_them():
    x = tf_keras.Input((6,))
    y = tf.reshape(layers.Dense(8, name="dense")(x), (-1, 2, 4))
    model = tf_keras.Model(x, layers.Dense(3, name="last")(y))
    zero(randomise(model), {"dense": [0, 4]})
    reasons = smart_tf.channels.find_groups(model).reasons
    assert "names the number of channels" in reasons["dense/kernel"]
    with pytest.warns(UserWarning, match="No channel"):
        assert_same_outputs(model, smart_tf.shrink(model), inputs_for(model))


def test_what_cannot_be_followed_stays():
    x = tf_keras.Input((6,))
    y = layers.Lambda(lambda x: x[:, ::-1], name="flip")(layers.Dense(8, name="d")(x))
    model = tf_keras.Model(x, layers.Dense(3, name="last")(y))
    zero(randomise(model), {"d": [0, 4]})
    reasons = smart_tf.channels.find_groups(model).reasons
    assert reasons["d/kernel"] == "'flip': not followed"
    with pytest.warns(UserWarning, match="No channel"):
        assert_same_outputs(model, smart_tf.shrink(model), inputs_for(model))


@pytest.mark.parametrize("builder", [architectures.nested, architectures.sequential])
def test_it_has_its_own_variables_trains_on_and_is_exported(builder, tmp_path):
    model = randomise(builder(tf_keras))
    cut_half(model, smart_tf.channels.find_groups(model))
    before = model.get_weights()
    small = smart_tf.shrink(model)
    assert type(small) is type(model) and small.name == model.name
    assert [k.name for k in small.layers] == [k.name for k in model.layers]
    assert small.input_names == model.input_names
    assert small.output_names == model.output_names
    x = inputs_for(model, count=8)
    small.compile("sgd", "mse")
    started = small.get_weights()
    small.fit(x, np.zeros((8, small.output_shape[-1])), verbose=0)
    assert not np.array_equal(started[0], small.get_weights()[0])
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    small.save(tmp_path / "small.keras")
    loaded = tf_keras.models.load_model(tmp_path / "small.keras")
    assert_same_outputs(small, loaded, x, tolerance=0)
    report = smart_tf.export.to_tflite(small, tmp_path / "small.tflite")
    assert report.max_difference < 1e-4


def test_zeros_of_tfmot():
    """Channels pruned by tfmot: kernels alone are zero, biases live on."""
    model = randomise(architectures.sequential(tf_keras))
    pruned = tfmot.sparsity.keras.prune_low_magnitude(model)
    with pytest.raises(ValueError, match="has pruning wrappers"):
        smart_tf.shrink(pruned)
    final = tfmot.sparsity.keras.strip_pruning(pruned)
    zero(final, {"conv": [0, 1], "hidden": [3]}, biases=False)
    small = smart_tf.shrink(final)
    assert_same_outputs(final, small, inputs_for(final))
    found = shapes(small)
    assert found["conv"] == (3, 3, 2, 4) and found["hidden"] == (64, 7)


def test_a_batch_norm_with_renorm_is_left_alone():
    x = tf_keras.Input((6,))
    y = layers.BatchNormalization(renorm=True)(layers.Dense(8, name="d")(x))
    model = tf_keras.Model(x, layers.Dense(3, name="last")(y))
    zero(randomise(model), {"d": [0, 4]})
    with pytest.warns(UserWarning, match="No channel"):
        assert_same_outputs(model, smart_tf.shrink(model), inputs_for(model))


def test_subclassed_models_are_refused():
    class Subclassed(tf_keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="must be a Functional or Sequential model"):
        smart_tf.shrink(Subclassed())
