"""Which blocks magnitude pruning keeps, and when it prunes them."""

import keras
import numpy as np
import pytest

import smart_tf
from smart_tf import methods
from tests.references import (
    EachBatch,
    compiled,
    data,
    kernels,
    linear,
    mlp,
    spread_blocks,
    zeros,
)

# Blocks of 2x2 in a kernel of 5 inputs and 3 outputs; the last row and column are
# ragged, so that the blocks hold 4 2 / 4 2 / 2 1 weights. Three are equally large.
GRID = np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 5.0]])
RAGGED = spread_blocks(GRID, (5, 3), 2, 2) * np.where(np.arange(15) % 2, 1, -1).reshape(
    5, 3
)


def ranking_of(kernels, sparsity, method, structure="2x2"):
    model = smart_tf.prune(linear(*kernels), sparsity, structure, method)
    return smart_tf.Pruner(model).ranking


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (1.0, [[0, 1], [1, 1], [0, 1]]),  # 9 weights: 1 + 2 + 4 + 2, ties in order
        (0.5, [[0, 1], [1, 1], [1, 1]]),  # 12: the last of 4 would be too many
        (0.0, [[1, 1], [1, 1], [1, 1]]),
    ],
)
def test_ragged_blocks_and_ties(share, expected):
    ranking = ranking_of([RAGGED], 0.4, methods.Magnitude())
    (mask,) = ranking.hard_masks(share)
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("mean", [0, 1]), ("sum", [0, 1]), ("rms", [1, 0]), ("max", [1, 0])],
)
def test_how_the_weights_of_a_block_are_summed_up(reduction, expected):
    kernel = np.array([[4.0, 0.0], [0.0, 0.0], [1.5, 1.5], [1.5, -1.5]])
    ranking = ranking_of([kernel], 0.5, methods.Magnitude(reduction=reduction))
    np.testing.assert_array_equal(ranking.hard_masks()[0].ravel(), expected)


LARGE = spread_blocks(np.array([[10.0, 9.0], [8.0, 7.0]]), (4, 4), 2, 2)
SMALL = spread_blocks(np.array([[1.0, 2.0], [3.0, 4.0]]), (4, 4), 2, 2)


def test_blocks_of_all_layers_compete_down_to_the_floor():
    large, small = ranking_of([LARGE, SMALL], 0.5, methods.Magnitude()).hard_masks()
    np.testing.assert_array_equal(large, [[1, 1], [1, 0]])
    np.testing.assert_array_equal(small, [[0, 0], [0, 1]])  # the last one always stays


def test_per_layer_every_kernel_gives_the_same_part():
    ranking = ranking_of([LARGE, SMALL], 0.5, methods.Magnitude(per_layer=True))
    large, small = ranking.hard_masks()
    np.testing.assert_array_equal(large, [[1, 1], [0, 0]])
    np.testing.assert_array_equal(small, [[0, 0], [1, 1]])


def test_per_layer_the_whole_is_exact_though_no_layer_divides():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, n)) for n in (1, 5, 7)]
    method = methods.Magnitude(per_layer=True)
    masks = ranking_of(arrays, 0.5, method, "unstructured").hard_masks()
    kept = [int(m.sum()) for m in masks]
    assert sum(kept) == 19  # of 39
    assert all(abs(k - m.size / 2) <= 1 for k, m in zip(kept, masks, strict=True))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75, 1.0])
def test_per_layer_wrappers_of_ones_own_reach_each_its_own_sparsity(share):
    method = methods.Magnitude(per_layer=True)
    sparsities = (0.8, 0.4, 0.0)
    model = keras.Sequential([keras.Input((20,))])
    for sparsity in sparsities:
        dense = keras.layers.Dense(20)
        model.add(smart_tf.PrunableLayer(dense, "2x2", sparsity, method))
    masks = smart_tf.Pruner(model).ranking.hard_masks(share)
    gone = [1 - mask.mean() for mask in masks]
    np.testing.assert_allclose(gone, [share * s for s in sparsities], atol=1e-9)


def fit(method):
    """The zeros after every update, of 36 blocks, in a search of 12 updates."""
    x, y = data()
    model = compiled(smart_tf.prune(mlp(), 0.75, "4x4", method), "adam")
    look = EachBatch(lambda m: (round(36 * zeros(m)), kernels(m)))
    schedule = smart_tf.TemperatureSchedule(2, 14)
    callback = smart_tf.SmartPruningCallback(schedule=schedule)
    options = {"batch_size": 16, "epochs": 4, "verbose": 0}
    model.fit(x, y, callbacks=[callback, look], **options)
    gone, trained = zip(*look.seen, strict=True)
    return list(gone), trained


def test_the_sparsity_rises_as_the_cube():
    """36 * (1 - 0.75 * (1 - (1 - p) ** 3)) stay, for p of 1/4, 2/4 and 3/4."""
    gone, trained = fit(methods.Magnitude(updates=4))
    stay = [36 * (1 - 0.75 * (1 - (1 - p) ** 3)) for p in (0.25, 0.5, 0.75)]
    a, b, c = (36 - int(s) for s in stay)
    assert (a, b, c) == (16, 24, 27)
    assert gone == [0] * 4 + [a] * 3 + [b] * 3 + [c] * 6
    for before, after in zip(trained[4:], trained[5:], strict=False):
        for name, kernel in after.items():
            assert not kernel[before[name] == 0].any()  # what is gone stays so


def test_at_once_everything_goes_when_the_search_begins():
    gone, _ = fit(methods.Magnitude(gradual=False))
    assert gone == [0] + [27] * 15
