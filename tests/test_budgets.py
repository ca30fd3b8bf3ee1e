"""Budgets that do not count weights, for blocks of single kernels."""

import keras
import numpy as np
import pytest
from keras import layers

import smart_tf


def network():
    """Kernels of 3x3x4x8 at 8x8 positions, 1x1x8x16 at 4x4, and 16x4 once."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="large")(image)
    x = layers.Conv2D(16, 1, strides=2, activation="relu", name="small")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(4, name="head")(x))


USES = {"large": 64, "small": 16, "head": 1}


def cost_left(model, uses=USES):
    return sum(
        uses[name] * np.count_nonzero(model.get_layer(name).kernel.numpy())
        for name in uses
    )


def total(uses=USES):
    return uses["large"] * 288 + uses["small"] * 128 + uses["head"] * 64


@pytest.mark.parametrize("sparsity", [0.3, 0.6])
def test_multiplications_go_to_one_block(sparsity):
    pruned = smart_tf.prune(network(), sparsity, "4x4", budget="macs")
    final = smart_tf.strip_pruning(pruned)
    limit = (1 - sparsity) * total()
    dearest_block = 16 * 64
    assert limit - dearest_block < cost_left(final) <= limit


def test_the_search_spends_multiplications():
    pruned = smart_tf.prune(network(), 0.5, "4x4", budget="macs")
    pruner = smart_tf.Pruner(pruned, smart_tf.TemperatureSchedule(0, 100))
    pruner.start()
    pruned(np.zeros((2, 8, 8, 4), "float32"), training=True)
    _, tau, a, s = pruner.layers[0].search_state.numpy().astype(np.float64)[:4]
    spent = 0.0
    for mask, uses in zip(pruner.ranking.masks, USES.values(), strict=True):
        logits = mask.logits.numpy().astype(np.float64)
        spent += uses * (16 / (1 + np.exp(-((logits - a) / tau - s)))).sum()
    np.testing.assert_allclose(spent, 0.5 * total(), rtol=1e-5)


def test_costs_of_ones_own(tmp_path):
    def cost(weight):
        return {"large": 1.0, "small": 10.0, "head": 1.0}[weight.owner.name]

    pruned = smart_tf.prune(network(), 0.5, "4x4", budget=cost)
    pruned.save(tmp_path / "pruned.keras")
    pruned = keras.models.load_model(tmp_path / "pruned.keras")
    final = smart_tf.strip_pruning(pruned)
    blocks = {"large": 18, "small": 8, "head": 4}
    left = {
        name: np.count_nonzero(final.get_layer(name).kernel.numpy()) / 16
        for name in blocks
    }
    limit = 0.5 * (18 + 80 + 4)
    assert limit - 10 < left["large"] + 10 * left["small"] + left["head"] <= limit


def test_costs_can_differ_from_block_to_block():
    def cost(weight):
        return np.arange(1, 5).reshape(4, 1) if weight.owner.name == "head" else 5.0

    pruned = smart_tf.prune(network(), 0.5, "4x4", budget=cost, filters="head|small")
    masks = {m.weight.owner.name: m for m in smart_tf.Pruner(pruned).ranking.masks}
    np.testing.assert_allclose(masks["head"].costs.ravel(), [1, 2, 3, 4])
    np.testing.assert_allclose(masks["small"].costs, 5.0)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("flops", "`budget` must be"),
        ("params", "goes with coupled channels"),
        (lambda weight: -1.0, "positive costs"),
        (lambda weight: np.nan, "positive costs"),
    ],
)
def test_other_budgets_are_refused(budget, message):
    model = network()
    with pytest.raises(ValueError, match=message):
        smart_tf.prune(model, 0.5, "4x4", budget=budget)
    assert model.get_layer("large").kernel.constraint is None


def test_unknown_sizes_have_no_count():
    image = keras.Input((None, None, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, name="conv")(image))
    model = keras.Model(image, layers.Dense(4)(x))
    with pytest.raises(ValueError, match="how often 'conv/kernel' multiplies"):
        smart_tf.prune(model, 0.5, "4x2", budget="macs")
