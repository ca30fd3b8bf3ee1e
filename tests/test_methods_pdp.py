"""PDP's masks and gradients against its formulas in float64."""

import numpy as np
import pytest
import tensorflow as tf

import smart_tf
from smart_tf import methods
from smart_tf.search import SEARCHING, SearchState
from tests.references import block_sums, linear, spread_blocks

TAU = 0.05
SEARCH = SearchState(*(tf.constant(v) for v in (SEARCHING, 1.0, 0.0, 0.0, 0.0, 1.0)))


def ranking_of(kernels, sparsity, structure, **settings):
    method = methods.PDP(temperature=TAU, **settings)
    model = smart_tf.prune(linear(*kernels), sparsity, structure, method)
    return smart_tf.Pruner(model).ranking


def reference_mask(kernel, threshold, out, into):
    """The second share of softmax([t^2 / tau, a^2 / tau])."""
    a_squared = block_sums(kernel**2, out, into) / block_sums(
        np.ones_like(kernel), out, into
    )
    return np.exp(a_squared / TAU) / (
        np.exp(a_squared / TAU) + np.exp(threshold**2 / TAU)
    )


def central_differences(function, at, step=1e-5):
    slopes = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        change = np.zeros_like(at)
        change[index] = step
        slopes[index] = (function(at + change) - function(at - change)) / (2 * step)
    return slopes


@pytest.mark.parametrize("kept", [1, 4, 9])
def test_mask_and_gradient_are_those_of_the_formula(kept):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(8, 7)).astype("float32").astype("float64")
    upstream = rng.normal(size=(8, 7))  # dL / d(w f)
    # Blocks of 3 outputs by 3 inputs, ragged on both sides: a grid of 3 by 3.
    method = methods.PDP(temperature=TAU)
    model = smart_tf.prune(linear(kernel), 0.5, "3x3", method)
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 10))
    pruner.start()
    (mask,) = pruner.ranking.masks
    mask.slots["kept"].assign(kept)

    sizes = block_sums(np.ones_like(kernel), 3, 3)
    a = np.sort(np.sqrt(block_sums(kernel**2, 3, 3) / sizes), axis=None)[::-1]
    threshold = (a[kept - 1] + a[kept]) / 2 if kept < 9 else 0.0

    def masked(w):
        f = reference_mask(w, threshold, 3, 3) if kept < 9 else np.ones((3, 3))
        return w * spread_blocks(f, w.shape, 3, 3)

    unit_vectors = np.eye(8, dtype=np.float32)  # the outputs are the masked kernel
    with tf.GradientTape() as tape:
        got = model(unit_vectors, training=True)
        loss = tf.reduce_sum(got * tf.constant(upstream, tf.float32))
    np.testing.assert_allclose(got, masked(kernel), atol=1e-6)
    (gradient,) = tape.gradient(loss, model.trainable_variables)
    expected = central_differences(lambda w: (masked(w) * upstream).sum(), kernel)
    np.testing.assert_allclose(gradient, expected, atol=2e-4)
    got = model(unit_vectors, training=False)
    np.testing.assert_allclose(got, masked(kernel), atol=1e-6)


def test_the_mask_is_a_half_at_the_threshold_and_splits_the_blocks():
    kernel = np.diag([0.1, 0.5, 0.7, 2.0])
    (mask,) = ranking_of([kernel], 0.5, "4x1").masks
    mask.slots["kept"].assign(2)
    f = mask.method.soft_mask(tf.constant(kernel, tf.float32), mask, SEARCH)
    # Magnitudes are half of those of the single weights; t = (0.25 + 0.35) / 2.
    odds = (np.array([0.05, 0.25, 0.35, 1.0]) ** 2 - 0.3**2) / TAU
    np.testing.assert_allclose(np.ravel(f), 1 / (1 + np.exp(-odds)), rtol=1e-5)


def test_groups_of_n_of_m_have_thresholds_of_their_own():
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(6, 2)).astype("float32")  # groups of 4, and a rest of 2
    model = smart_tf.prune(
        linear(kernel), structure="1:4", method=methods.PDP(temperature=TAU)
    )
    (mask,) = smart_tf.Pruner(model).ranking.masks
    got = mask.method.soft_mask(tf.constant(kernel), mask, SEARCH).numpy()
    for column in range(2):
        for rows in (slice(0, 4), slice(4, 6)):
            a = np.abs(kernel[rows, column].astype("float64"))
            second, first = np.sort(a)[-2:]
            odds = (a**2 - ((first + second) / 2) ** 2) / TAU
            expected = 1 / (1 + np.exp(-odds))
            np.testing.assert_allclose(got[rows, column], expected, atol=1e-5)


LARGE = spread_blocks(np.array([[10.0, 9.0], [8.0, 7.0]]), (4, 4), 2, 2)
SMALL = spread_blocks(np.array([[1.0, 2.0], [3.0, 6.0]]), (4, 4), 2, 2)


def kept(ranking, name):
    return [int(m.slots[name].numpy()) for m in ranking.masks]


def test_budgets_come_from_the_first_ranking_and_are_reached_in_steps():
    ranking = ranking_of([LARGE, SMALL], 0.5, "2x2", updates=2)
    method = ranking.masks[0].method
    assert method.milestones() == (0.0, 0.5)
    method.update(ranking, 0)
    assert kept(ranking, "kept_at_last") == [3, 1]
    assert kept(ranking, "kept") == [4, 3]  # 0.5 and 1.5 go
    method.update(ranking, 1)
    assert kept(ranking, "kept") == [3, 1]


def test_budgets_hold_to_the_end_though_magnitudes_change():
    ranking = ranking_of([LARGE, SMALL], 0.5, "2x2")
    ranking.masks[0].method.update(ranking, 0)
    small = ranking.masks[1].weight.variable
    small.assign(100 * SMALL[::-1])
    large, small = ranking.hard_masks()
    np.testing.assert_array_equal(large, [[1, 1], [1, 0]])
    np.testing.assert_array_equal(small, [[0, 1], [0, 0]])
