"""AC/DC's phases and masks, against a schedule written out by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import smart_tf
from smart_tf import methods
from tests.references import EachBatch, compiled, data, greedy_topk, kernels, mlp, zeros


@pytest.fixture(scope="module")
def course():
    """16 updates, the search from 2 to 14: phases of 4, from 2, 6 and 10 on.

    Kernels before the pruning of each update; masks, kernels and zeros after it.
    """
    x, y = data()
    model = smart_tf.prune(mlp(), 0.75, "4x4", methods.ACDC(steps=2))
    model = compiled(model, keras.optimizers.AdamW(1e-2))
    masks = [m for layer in model.layers for m in layer.weight_masks]
    before = EachBatch(kernels)
    after = EachBatch(lambda m: ([k.mask.numpy() for k in masks], kernels(m), zeros(m)))
    schedule = smart_tf.TemperatureSchedule(2, 14)
    callback = smart_tf.SmartPruningCallback(schedule=schedule)
    options = {"batch_size": 16, "epochs": 4, "verbose": 0}
    model.fit(x, y, callbacks=[before, callback, after], **options)
    return before.seen, after.seen


def test_compressed_and_decompressed_phases_alternate(course):
    _, after = course
    # After update 6 the masks are open, and the weights start from zero. A unit
    # that has lost all of its inputs and outputs gets no gradient, and stays there.
    sparsity = [0.0 if z < 0.03 else z for *_, z in after]
    assert sparsity == [0.0] + [0.75] * 5 + [0.0] * 3 + [0.75] * 7
    is_open = [all(m.all() for m in masks) for masks, *_ in after]
    assert is_open == [True] + [False] * 4 + [True] * 4 + [False] * 7


@pytest.mark.parametrize("update", [2, 10])
def test_a_compressed_phase_keeps_the_largest_blocks_of_its_beginning(course, update):
    before, after = course
    rms = [
        np.sqrt((k.reshape(k.shape[0] // 4, 4, -1, 4) ** 2).mean(axis=(1, 3)))
        for k in before[update - 1].values()
    ]
    expected = greedy_topk(rms, 9)  # of 36
    for later in range(update - 1, update + 3):
        for mask, keep in zip(after[later][0], expected, strict=True):
            np.testing.assert_array_equal(mask.ravel(), keep)


def test_fine_tuning_goes_on_with_the_last_masks(course):
    _, after = course
    for masks, *_ in after[10:]:
        for mask, last in zip(masks, after[9][0], strict=True):
            np.testing.assert_array_equal(mask, last)


def test_nothing_comes_back_from_behind_a_relu_when_the_normalisation_is_at_zero():
    """Why channels that run through several layers are refused."""
    keras.utils.set_random_seed(0)
    conv = keras.layers.Conv2D(4, 3, use_bias=False)
    normalise = keras.layers.BatchNormalization()
    layers = [conv, normalise, keras.layers.ReLU(), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((6, 6, 2)), *layers, keras.layers.Dense(3)])
    made = [conv.kernel, normalise.gamma, normalise.beta]
    for variable in made:
        variable.assign(variable.numpy() * np.array([0.0, 1.0, 1.0, 1.0]))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(np.random.rand(8, 6, 6, 2), training=True) ** 2)
    for gradient in tape.gradient(loss, [v.value for v in made]):
        size = np.abs(gradient).reshape(-1, 4).max(axis=0)
        assert size[0] == 0.0 and (size[1:] > 0).all()
