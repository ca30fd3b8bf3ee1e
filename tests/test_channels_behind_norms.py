"""Channels of single kernels, whose masks act behind the normalisation that follows."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import smart_tf
from smart_tf import Channel, flavours
from smart_tf.methods import Smart
from tests.test_coupled_channels import X, Y, assert_same_outputs, network

ALONE = Channel(coupled=False)
ALL = {"structure": ALONE, "filters": "."}  # the head as well


def searching(model=None, **kwargs):
    """A model in the middle of its search, and what drives it."""
    model = smart_tf.prune(model or network(), 0.5, **ALL, **kwargs)
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 10_000, 1.0, 0.9))
    pruner.start()
    model(X, training=True)
    return model, pruner


def slopes(model, pruner):
    """Gradient of a loss with respect to the logits of each conv and dense kernel."""
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(tf.square(model(X, training=True) - 1.0))
    masks = [m for m in pruner.ranking.masks if m.is_kernel]
    shared = pruner.ranking.lead
    if shared is None:
        gradients = tape.gradient(value, [m.logits.value for m in masks])
        return {
            m.weight.owner.name: np.ravel(g)
            for m, g in zip(masks, gradients, strict=True)
        }
    gradient = tape.gradient(value, shared.shared_logits.value).numpy()
    return {m.weight.owner.name: gradient[m.channels.ravel()] for m in masks}


def test_the_masks_scale_what_the_normalisation_puts_out():
    plain = network()
    for name in ("stem_norm", "down_norm"):
        plain.get_layer(name).beta.assign_add(tf.ones_like(plain.get_layer(name).beta))
    model, pruner = searching(plain)
    soft = {
        m.weight.owner.name: mask
        for m, mask in zip(
            pruner.ranking.masks, pruner.ranking.soft_masks(), strict=True
        )
    }
    assert 0.1 < soft["down"].min() < soft["down"].max() < 0.9
    by_hand = network()
    by_hand.set_weights(plain.get_weights())
    for kernel, norm in (("stem", "stem_norm"), ("down", "down_norm")):
        layer, factor = by_hand.get_layer(norm), soft[kernel].ravel()
        layer.gamma.assign(layer.gamma * factor)
        layer.beta.assign(layer.beta * factor)
    for name in ("up", "head"):  # Nothing normalises these.
        kernel = by_hand.get_layer(name).kernel
        kernel.assign(kernel * soft[name].ravel())
    assert_same_outputs(by_hand, model)


def test_in_front_of_a_normalisation_a_mask_would_learn_nothing():
    behind = slopes(*searching())
    front = slopes(*searching(method=Smart(behind_norms=False)))
    loose = slopes(*searching(method="paper"))
    for name in ("stem", "down"):
        # All have in common what the budget makes of the other kernels' gradients.
        felt = np.ptp(behind[name])
        assert felt > 10 * np.ptp(front[name])
        assert felt > 10 * np.ptp(loose[name])
    # Nothing cancels those of a kernel without a normalisation.
    assert 0.1 < np.ptp(behind["up"]) / np.ptp(front["up"]) < 10


@pytest.mark.parametrize("method", ["smart", "pas"])
def test_what_is_pruned_is_silent_and_as_much_as_is_asked(method):
    model = smart_tf.prune(network(), 0.7, **ALL, method=method)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callback = smart_tf.SmartPruningCallback(search_epochs=2)
    model.fit(X, Y, batch_size=8, epochs=3, verbose=0, callbacks=[callback])
    report, final = smart_tf.report(model), smart_tf.strip_pruning(model)
    assert_same_outputs(model, final, 0.0)
    assert report.cut is None  # Nothing gets narrower.
    assert [k.name for k in report.kernels] == [
        f"{name}/kernel" for name in ("stem", "down", "up", "head")
    ]
    total = sum(k.weights for k in report.kernels)
    largest = max(k.weights / k.blocks for k in report.kernels)
    kept = total - sum(k.zeros for k in report.kernels)
    assert 0 <= 0.3 * total - kept < largest
    for kernel, norm in (("stem", "stem_norm"), ("down", "down_norm")):
        dead = ~final.get_layer(kernel).kernel.numpy().any(axis=(0, 1, 2))
        for variable in final.get_layer(norm).trainable_variables:
            np.testing.assert_array_equal(variable.numpy() == 0, dead)
    if method == "smart":
        assert dead.any()


def test_a_search_that_is_saved_is_whole(tmp_path):
    model, _ = searching()
    model.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    assert_same_outputs(model, loaded, 0.0)
    assert_same_outputs(
        smart_tf.strip_pruning(model), smart_tf.strip_pruning(loaded), 0.0
    )


def behind(norm, kernel="conv", calls=1, activation=None):
    """Names of the wrapped layers of conv - (activation) - norm - dense."""
    image = keras.Input((8, 8, 3))
    conv = layers.Conv2D(8, 3, padding="same", name=kernel, activation=activation)
    x = norm(conv(image))
    for _ in range(calls - 1):
        x = norm(layers.ReLU()(x))
    x = layers.Dense(4, name="head")(layers.GlobalAveragePooling2D()(x))
    model, _ = searching(keras.Model(image, x))
    return {wrapper.layer.name for wrapper in flavours.wrappers(model)}


def test_only_a_normalisation_that_is_the_kernels_own_is_masked():
    found = behind(layers.BatchNormalization(name="norm", center=False))
    assert found == {"conv", "norm", "head"}
    kernels = {"conv", "head"}
    assert behind(layers.BatchNormalization(name="norm", scale=False)) == kernels
    assert behind(layers.BatchNormalization(name="norm", trainable=False)) == kernels
    assert behind(layers.BatchNormalization(name="norm"), calls=2) == kernels
    assert behind(layers.BatchNormalization(name="norm", axis=1)) == kernels
    assert behind(layers.GroupNormalization(4, name="norm")) == kernels
    assert behind(layers.BatchNormalization(name="norm"), activation="relu") == kernels


def test_costs_that_differ_within_a_kernel_are_still_counted():
    def prices(channels):
        return np.where(np.arange(channels) < channels // 2, 100.0, 1.0)

    model, _ = searching(budget=lambda weight: 2.0)
    assert len(flavours.wrappers(model)) == 6
    model = smart_tf.prune(
        network(), 0.9, **ALL, budget=lambda w: prices(w.variable.shape[-1])
    )
    assert len(flavours.wrappers(model)) == 4
    final, spent, total = smart_tf.strip_pruning(model), 0.0, 0.0
    for name in ("stem", "down", "up", "head"):
        kernel = final.get_layer(name).kernel.numpy()
        kept = kernel.reshape(-1, kernel.shape[-1]).any(axis=0)
        spent, total = (
            spent + prices(kept.size)[kept].sum(),
            total + prices(kept.size).sum(),
        )
    assert 0.1 * total - 100 < spent <= 0.1 * total
