"""PaS's masks, gradients and loss against its formulas in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import smart_tf
from smart_tf import methods
from tests.references import block_sums, compiled, data, linear, mlp, spread_blocks

RNG = np.random.default_rng(0)
KERNELS = [RNG.normal(size=(5, 3)), RNG.normal(size=(5, 4))]
X = RNG.normal(size=(7, 5))
TARGETS = [RNG.normal(size=(7, 3)), RNG.normal(size=(7, 4))]
# In blocks of 2x2: ragged grids of 3x2 and 3x2.
SCORES = [
    np.array([[0.2, 0.5], [0.51, 1.7], [-3.0, 0.9]]),
    np.array([[0.1, 0.3], [0.2, 0.4], [0.0, -1.0]]),
]
MASKS = [
    np.array([[0, 0], [1, 1], [0, 1]]),
    np.array([[0, 0], [0, 1], [0, 0]]),  # the best block stays
]


@pytest.fixture
def searching():
    """A model in its search, with these scores, and what drives it."""
    method = methods.PaS(strength=0.3)
    model = smart_tf.prune(linear(*KERNELS), 0.75, "2x2", method)
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 9))
    pruner.start()
    for mask, scores in zip(pruner.ranking.masks, SCORES, strict=True):
        mask.logits.assign(scores)
    return model, pruner


def test_masks_are_rounded_scores(searching):
    model, _ = searching
    outputs = model(X.astype("float32"), training=True)
    for got, kernel, mask in zip(outputs, KERNELS, MASKS, strict=True):
        spread = spread_blocks(mask, kernel.shape, 2, 2)
        np.testing.assert_allclose(got, X @ (kernel * spread), atol=1e-5)


def test_gradients_go_straight_through_and_the_loss_pulls_to_the_target(searching):
    model, pruner = searching
    logits = [m.logits.value for m in pruner.ranking.masks]
    with tf.GradientTape() as tape:
        outputs = model(X.astype("float32"), training=True)
        loss = sum(
            tf.reduce_sum(y * t.astype("float32"))
            for y, t in zip(outputs, TARGETS, strict=True)
        )
        loss += sum(model.losses)
    gradients = tape.gradient(loss, logits)

    costs = [block_sums(np.ones_like(k), 2, 2) for k in KERNELS]
    kept = sum((c * m).sum() for c, m in zip(costs, MASKS, strict=True))
    distance = kept / 35 - 0.25
    expected_loss = 0.3 * 12 * distance**2
    for i, kernel in enumerate(KERNELS):
        upstream = X.T @ TARGETS[i]  # dL / d(w b)
        straight = block_sums(kernel * upstream, 2, 2)
        pull = 0.3 * 12 * 2 * distance * costs[i] / 35
        np.testing.assert_allclose(gradients[i], straight + pull, atol=1e-4)
        spread = spread_blocks(MASKS[i], kernel.shape, 2, 2)
        expected_loss += (X @ (kernel * spread) * TARGETS[i]).sum()
    assert float(loss) == pytest.approx(expected_loss, abs=1e-4)


def test_the_loss_has_no_such_term_outside_of_the_search(searching):
    model, pruner = searching
    pruner.ranking.freeze()
    model(X.astype("float32"), training=True)
    assert float(sum(model.losses)) == 0.0
    model(X.astype("float32"), training=False)
    assert model.losses == []


def test_the_freeze_keeps_the_largest_scores(searching):
    """8.75 weights of 35 may stay: the best of both kernels, 2 and 4, and 1 more."""
    _, pruner = searching
    first, second = pruner.ranking.hard_masks()
    np.testing.assert_array_equal(first, [[0, 0], [0, 1], [0, 1]])
    np.testing.assert_array_equal(second, [[0, 0], [0, 1], [0, 0]])


def test_scores_start_around_one_and_follow_the_magnitudes():
    model = smart_tf.prune(linear(*KERNELS), 0.75, "2x2", "pas")
    masks = smart_tf.Pruner(model).ranking.masks
    scores = np.concatenate([m.logits.numpy().ravel() for m in masks])
    sizes = [block_sums(np.ones_like(k), 2, 2) for k in KERNELS]
    rms = np.concatenate(
        [
            np.sqrt(block_sums(k**2, 2, 2) / c).ravel()
            for k, c in zip(KERNELS, sizes, strict=True)
        ]
    )
    np.testing.assert_allclose(scores.mean(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(scores.std(), 0.1, rtol=1e-5)
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(rms))


def test_channels_of_several_layers_count_as_what_the_cut_model_costs():
    """Widths a and b of 4 and 5: a model of 3 a + a b + 2 b weights."""
    image = keras.Input((3,))
    x = keras.layers.Dense(4, use_bias=False, activation="relu", name="a")(image)
    x = keras.layers.Dense(5, use_bias=False, activation="relu", name="b")(x)
    model = keras.Model(image, keras.layers.Dense(2, use_bias=False)(x))
    structure = smart_tf.Channel(round_to=1)
    model = smart_tf.prune(model, 0.6, structure, methods.PaS(strength=0.3))
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 9))
    pruner.start()
    pruner.ranking.lead.shared_logits.assign([1, 0, 1, 1, 0, 1, 1, 0, 1])
    shared = pruner.ranking.lead.shared_logits.value
    with tf.GradientTape() as tape:
        model(X[:, :3].astype("float32"), training=True)
        (penalty,) = model.losses
    distance = (3 * 3 + 3 * 3 + 3 * 2) / (3 * 4 + 4 * 5 + 5 * 2) - 0.4
    assert float(penalty) == pytest.approx(0.3 * 9 * distance**2, rel=1e-4)
    pull = 0.3 * 9 * 2 * distance / 42
    expected = [pull * (3 + 3)] * 4 + [pull * (3 + 2)] * 5
    np.testing.assert_allclose(tape.gradient(penalty, shared), expected, rtol=1e-4)


def test_the_term_is_added_to_the_loss_of_a_float64_model():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        model = compiled(smart_tf.prune(mlp(), 0.75, "4x4", "pas"))
        callback = smart_tf.SmartPruningCallback(search_epochs=1)
        model.fit(*data(), batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    assert smart_tf.report(model).phase == "frozen"
