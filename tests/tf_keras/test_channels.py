"""Coupled channels of tf_keras models: search, strip (ours and tfmot's), shrink."""

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
import tf_keras
from tf_keras import layers

import smart_tf

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 8, 8, 3)).astype("float32")
Y = RNG.integers(0, 4, 32)


def network():
    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="stem_norm")(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = layers.Conv2D(16, 1, name="up")(y)
    x = layers.GlobalAveragePooling2D()(x + y)
    return tf_keras.Model(image, layers.Dense(4, name="head")(x), name="network")


def macs(width):
    return 64 * (27 * width + 9 * width + width * width) + 4 * width


def trained(structure=None):
    structure = structure or smart_tf.Channel(round_to=1)
    pruned = smart_tf.prune(network(), 0.5, structure, budget="macs")
    pruned.compile(
        tf_keras.optimizers.Adam(1e-2),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    callback = smart_tf.SmartPruningCallback(search_epochs=1)
    pruned.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[callback])
    return pruned


@pytest.mark.parametrize(
    "strip",
    [smart_tf.strip_pruning, tfmot.sparsity.keras.strip_pruning],
    ids=["smart_tf", "tfmot"],
)
def test_half_of_the_multiplications_go(strip):
    pruned = trained()
    masked = pruned.predict(X, verbose=0)
    small = smart_tf.shrink(strip(pruned))
    width = small.get_layer("stem").kernel.shape[-1]
    assert macs(width) <= 0.5 * macs(16) < macs(width + 1)
    assert isinstance(small, tf_keras.Model)
    got = small.predict(X, verbose=0)
    assert np.abs(got - masked).max() <= 1e-5 * np.abs(masked).max()


def test_channels_of_single_kernels_are_silent_behind_their_norms():
    pruned = trained(smart_tf.Channel(coupled=False))
    masked = pruned.predict(X, verbose=0)
    final = tfmot.sparsity.keras.strip_pruning(pruned)
    np.testing.assert_array_equal(final.predict(X, verbose=0), masked)
    assert smart_tf.report(final).sparsity > 0.3
    dead = ~final.get_layer("stem").kernel.numpy().any(axis=(0, 1, 2))
    for variable in final.get_layer("stem_norm").trainable_variables:
        np.testing.assert_array_equal(variable.numpy() == 0, dead)


@pytest.mark.parametrize("filters, whole", [(None, True), ("dense|logits", False)])
def test_the_layer_that_names_the_classes_is_left_alone_unless_it_is_named(
    filters, whole
):
    inputs = tf_keras.Input((8,))
    inner = tf_keras.Sequential(
        [layers.Dense(8, name="dense"), layers.Dense(4, name="logits")]
    )
    model = tf_keras.Model(inputs, tf_keras.activations.softmax(inner(inputs)))
    alone = smart_tf.Channel(coupled=False)
    pruned = smart_tf.prune(model, 0.5, alone, filters=filters)
    assert ("logits" in smart_tf.report(pruned).skipped) == whole


def test_a_saved_search_is_loaded_whole(tmp_path):
    structure = smart_tf.Channel(round_to=1)
    pruned = smart_tf.prune(network(), 0.5, structure, budget="macs")
    pruner = smart_tf.Pruner(pruned, smart_tf.TemperatureSchedule(0, 10))
    pruner.start()
    pruned(X, training=True)
    before = pruned.predict(X, verbose=0)
    pruned.save(tmp_path / "pruned.keras")
    loaded = tf_keras.models.load_model(tmp_path / "pruned.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), before)
    small = smart_tf.shrink(smart_tf.strip_pruning(loaded))
    assert small.count_params() < network().count_params()
