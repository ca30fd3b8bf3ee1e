"""AWG's moving average, its ranking and its two parts of a step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import smart_tf
from smart_tf import methods
from tests.references import (
    EachBatch,
    block_sums,
    compiled,
    data,
    greedy_topk,
    kernels,
    linear,
    mlp,
)

RNG = np.random.default_rng(3)
KERNELS = [RNG.normal(size=(4, 6)), 3 * RNG.normal(size=(4, 4))]
BATCHES = RNG.normal(size=(8, 5, 4))  # 8 batches of 5 rows
SIGNS = [RNG.normal(size=(8, 5, 6)), RNG.normal(size=(8, 5, 4))]


def trained(optimizer=None):
    """Logits, kernels and masks after each batch, on the loss `sum(y * signs)`."""
    method = methods.AWG(steps=1, calibration=0.5, decay=0.6)
    model = smart_tf.prune(linear(*KERNELS), 0.5, "2x2", method)
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 8))
    optimizer = optimizer or keras.optimizers.SGD(1e-3, momentum=0.9)
    optimizer = pruner.wrap_optimizer(optimizer)
    masks = pruner.ranking.masks
    pruner.start()
    seen = []
    for batch, x in enumerate(BATCHES):
        with tf.GradientTape() as tape:
            outputs = model(x.astype("float32"), training=True)
            loss = sum(
                tf.reduce_sum(y * s[batch].astype("float32"))
                for y, s in zip(outputs, SIGNS, strict=True)
            )
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        before = [m.logits.numpy() for m in masks]
        pruner.step()
        now = [m.weight.variable.numpy() for m in masks]
        seen.append((before, now, [m.mask.numpy() for m in masks]))
    return seen


def reference_averages(batches, decay):
    averages = [np.zeros((2, 3)), np.zeros((2, 2))]
    for batch in range(batches):
        for i, kernel in enumerate(KERNELS):
            gradient = BATCHES[batch].T @ SIGNS[i][batch]
            news = block_sums(np.abs(kernel * gradient), 2, 2)
            averages[i] = decay * averages[i] + (1 - decay) * news
    return averages


@pytest.fixture(scope="module")
def course():
    return trained()


def test_the_moving_average_is_that_of_weights_times_gradients(course):
    for batches in (1, 2, 4):
        logits, _, _ = course[batches - 1]
        for got, expected in zip(logits, reference_averages(batches, 0.6), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_decaying_learning_rate_does_not_change_the_average(course):
    rate = keras.optimizers.schedules.ExponentialDecay(1e-3, 1, 0.5)
    decaying = trained(optimizer=keras.optimizers.SGD(rate))
    for got, expected in zip(decaying[3][0], course[3][0], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_kernels_are_held_until_the_least_important_blocks_go(course):
    for _, held, masks in course[:3]:
        for got, start in zip(held, KERNELS, strict=True):
            np.testing.assert_array_equal(got, start.astype("float32"))
        assert all(m.all() for m in masks)
    averages = reference_averages(4, 0.6)
    kept = greedy_topk(averages, 5)  # of 10 blocks, of 4 weights each
    for mask, expected in zip(course[3][2], kept, strict=True):
        np.testing.assert_array_equal(mask.ravel(), expected)


def test_then_the_weights_are_trained_and_what_is_pruned_stays_so(course):
    for (_, before, _), (_, after, masks) in zip(course[3:], course[4:], strict=False):
        for old, new, mask, first in zip(
            before, after, masks, course[3][2], strict=True
        ):
            np.testing.assert_array_equal(mask, first)
            spread = np.kron(mask, np.ones((2, 2)))
            np.testing.assert_array_equal(new != old, spread == 1)


def test_importance_is_a_mean_over_weights_and_favours_sparse_layers():
    model = smart_tf.prune(linear(np.ones((3, 2))), 0.5, "1x2", "awg")
    (mask,) = smart_tf.Pruner(model).ranking.masks
    # A grid of 2x2, whose blocks hold 2 2 / 1 1 weights, of which 3 of 6 are left.
    mask.logits.assign(np.array([[4.0, 6.0], [5.0, 7.0]]))
    mask.mask.assign(np.array([[0.0, 1.0], [1.0, 0.0]]))
    np.testing.assert_allclose(
        mask.final_scores(), [[0.0, 6.0 / 2 * 2], [5.0 * 2, 0.0]]
    )


def test_before_the_first_batch_magnitudes_decide():
    kernel = np.array([[1.0, 3.0, 2.0, 4.0]])
    model = smart_tf.prune(linear(kernel), 0.5, "unstructured", "awg")
    (mask,) = smart_tf.Pruner(model).ranking.hard_masks()
    np.testing.assert_array_equal(mask, [[0, 1, 0, 1]])


def test_steps_alternate_in_fit_and_share_the_sparsity_out():
    """Search of 12: held from 0 and 6 on, pruned to 1/2 and all of it at 3 and 9."""
    x, y = data()
    method = methods.AWG(steps=2, calibration=0.5)
    model = compiled(smart_tf.prune(mlp(), 0.75, "4x4", method), "adamw")
    masks = [m for layer in model.layers for m in layer.weight_masks]
    look = EachBatch(
        lambda m: (int(sum(k.mask.numpy().sum() for k in masks)), kernels(m))
    )
    schedule = smart_tf.TemperatureSchedule(0, 12)
    callback = smart_tf.SmartPruningCallback(schedule=schedule)
    model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=[callback, look])
    kept, trained = zip(*look.seen, strict=True)
    assert kept == (36,) * 2 + (22,) * 6 + (9,) * 8  # floor(36 * (1 - 0.375)) = 22
    moves = [
        any(np.abs(one[k] - two[k])[two[k] != 0].max() > 0 for k in one)
        for one, two in zip(trained, trained[1:], strict=False)
    ]
    held = [False] * 2 + [True] * 3 + [False] * 3 + [True] * 7
    assert moves == held


def test_the_logits_optimizer_is_not_free():
    model = smart_tf.prune(linear(*KERNELS), 0.5, "2x2", "awg")
    with pytest.raises(ValueError, match="`mask_optimizer` must be None.*'same'"):
        smart_tf.Pruner(model).wrap_optimizer(keras.optimizers.SGD(), "same")


def test_channels_of_several_layers_have_the_importance_of_all_their_slices():
    """Both kernels make the same two channels: 3 + 2 weights each, 2 and no bias."""
    inputs = [keras.Input((3,)), keras.Input((2,))]
    dense = [keras.layers.Dense(2, use_bias=False, name=n) for n in ("one", "two")]
    added = keras.layers.Add()([d(x) for d, x in zip(dense, inputs, strict=True)])
    head = keras.layers.Dense(1, use_bias=False, name="head")(added)
    model = keras.Model(inputs, head)
    kernels_then = [np.array(d.kernel) for d in dense]
    structure = smart_tf.Channel(round_to=1)
    method = methods.AWG(steps=1, calibration=0.9, decay=0.6)
    model = smart_tf.prune(model, 0.5, structure, method)
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 10))
    optimizer = pruner.wrap_optimizer(keras.optimizers.SGD(1e-3))
    pruner.start()
    x = [RNG.normal(size=(5, 3)), RNG.normal(size=(5, 2))]
    last = np.array(model.get_layer("head").kernel)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model([v.astype("float32") for v in x], training=True))
    variables = model.trainable_variables
    gradients = tape.gradient(loss, variables)
    optimizer.apply_gradients(zip(gradients, variables, strict=True))
    importance = 0.4 * sum(
        np.abs(kernel * np.outer(v.sum(axis=0), last)).sum(axis=0)
        for kernel, v in zip(kernels_then, x, strict=True)
    )
    np.testing.assert_allclose(pruner.ranking.shared_logits(), importance, rtol=1e-5)
    scores = pruner.ranking.lead.method.final_channel_scores(pruner.ranking)
    np.testing.assert_allclose(scores, importance / 5, rtol=1e-5)
