"""What `MaskHistory` keeps, beside what the training itself shows."""

import keras
import numpy as np
import pytest

import smart_tf
from tests.references import EachBatch, compiled, data, kernels, mlp

X, Y = data()


def fit(model, *callbacks, epochs=4):
    model.fit(
        *(X, Y),
        batch_size=16,  # 4 updates in an epoch
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )


def pruned(structure="4x4", sparsity=0.75, method="smart"):
    return compiled(smart_tf.prune(mlp(), sparsity, structure, method))


def callback():
    return smart_tf.SmartPruningCallback(pretrain_epochs=1, search_epochs=2)


def by_blocks(kernel, out=4, into=4):
    """Which blocks of a Dense kernel are not zero: `(outputs, inputs, 1, 1)`."""
    tiles = kernel.reshape(kernel.shape[0] // into, into, -1, out)
    return (tiles != 0).any(axis=(1, 3)).T[:, :, None, None]


def flat(history, moment):
    return np.concatenate([m[moment].ravel() for m in history.masks.values()])


def histories():
    return {every: smart_tf.MaskHistory(every) for every in (None, 1, 3)}


@pytest.fixture(scope="module")
def course():
    """A run with histories before and after the callback, and its logits."""
    model = pruned()
    before, after = histories(), histories()
    look = EachBatch(lambda m: [k.weight_masks[0].logits.numpy() for k in m.layers])
    fit(model, *before.values(), callback(), *after.values(), look)
    return model, before, after, look.seen


def test_by_default_it_keeps_the_end_of_each_epoch(course):
    model, histories, _, _ = course
    history = histories[None]
    assert history.updates == [4, 8, 12, 16]
    assert history.phases == ["dense", "searching", "frozen", "frozen"]
    names = [name.split("/", 1)[1] for name in history.masks]
    assert names == ["first/kernel", "second/kernel", "last/kernel"]
    assert list(history.masks) == [k.name for k in smart_tf.report(model).kernels]
    assert (flat(history, 0) == 1).all()
    soft = flat(history, 1)
    assert ((soft > 0) & (soft < 1)).any()
    for mask, kernel in zip(
        history.masks.values(), kernels(model).values(), strict=True
    ):
        np.testing.assert_array_equal(mask[3], by_blocks(kernel))
        assert mask[3].dtype == np.float16


def test_soft_masks_are_sigmoids_of_the_logits_with_one_threshold(course):
    _, histories, _, seen = course
    history = histories[1]
    assert history.updates == list(range(1, 17))
    for moment in (5, 8):  # updates 6 and 9, in the search
        logits = np.concatenate([g.T.ravel() for g in seen[moment]])
        masks = flat(history, moment).astype(np.float64)
        between = (masks > 0.01) & (masks < 0.99)  # elsewhere float16 is too coarse
        assert between.sum() > 5
        odds = np.log(masks[between] / (1 - masks[between]))
        temperature = history.temperatures[moment]
        threshold = logits[between] - temperature * odds
        np.testing.assert_allclose(threshold, threshold.mean(), atol=0.05 * temperature)


def test_moments_are_apart_as_wished_and_across_epochs(course):
    _, histories, _, _ = course
    assert histories[3].updates == [3, 6, 9, 12, 15]


@pytest.mark.parametrize("every", [None, 1, 3])
def test_the_order_of_the_callbacks_makes_no_difference(course, every):
    _, before, after, _ = course
    before, after = before[every], after[every]
    assert before.updates == after.updates
    assert before.phases == after.phases
    assert before.temperatures == after.temperatures
    for first, second in zip(before.masks.values(), after.masks.values(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_looking_on_changes_nothing(course):
    alone, (watched, *_) = pruned(), course
    fit(alone, callback())
    for a, b in zip(alone.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_the_kernels_that_are_wished():
    history = smart_tf.MaskHistory(kernels=["second", "st/k"])
    history.set_model(pruned())
    assert [name.split("/")[1] for name in history.masks] == ["first", "second", "last"]
    for wished in (["second"], "second"):
        history = smart_tf.MaskHistory(kernels=wished)
        history.set_model(pruned())
        history.record()
        ((name, masks),) = history.masks.items()
        assert name.endswith("second/kernel") and len(masks) == 1
    with pytest.raises(ValueError, match=r"Received: \['third'\]"):
        smart_tf.MaskHistory(kernels=["third"]).set_model(pruned())


def test_bad_arguments_are_refused():
    for every in (0, 2.5, "2", True):
        with pytest.raises(ValueError, match="`every` must be an integer >= 1"):
            smart_tf.MaskHistory(every=every)
    for bad in ([], [3], 3, [None]):
        with pytest.raises(ValueError, match="`kernels` must be a string or a list"):
            smart_tf.MaskHistory(kernels=bad)
    with pytest.raises(ValueError, match="smart_tf.prune"):
        fit(compiled(mlp()), smart_tf.MaskHistory())


def test_a_second_fit_adds_and_another_model_begins_anew():
    model, history = pruned(), smart_tf.MaskHistory()
    for expected in (1, 2):
        history.set_model(model)
        history.record()
        assert [len(masks) for masks in history.masks.values()] == 3 * [expected]
    history.set_model(pruned())
    history.record()
    assert [len(masks) for masks in history.masks.values()] == 3 * [1]
    assert history.updates == [0]


@pytest.mark.parametrize("method", ["magnitude", "pdp", "pas", "awg", "acdc"])
def test_every_method_shows_the_masks_that_it_trains_with(method):
    history = smart_tf.MaskHistory(every=1)
    fit(pruned(method=method), callback(), history)
    during = [i for i, p in enumerate(history.phases) if p == "searching"]
    assert len(during) == 7  # of 8: with the last one they freeze
    for moment in during:
        masks = flat(history, moment)
        assert masks.min() >= 0 and masks.max() <= 1
        if method != "pdp":
            assert set(masks) <= {0, 1}
    assert (flat(history, during[-1]) < 0.5).any()


def test_masks_of_a_convolution_lie_at_their_positions():
    """N:M along the inputs: 2 of every 4 stay, at each position and output."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(6, (3, 2), name="conv"), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 8)), *layers, keras.layers.Dense(4)])
    model = compiled(smart_tf.prune(model, structure="2:4", filters="conv"))
    history = smart_tf.MaskHistory()
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 8)).astype("float32")
    model.fit(
        *(x, np.arange(16) % 4),
        batch_size=8,
        epochs=2,
        verbose=0,
        callbacks=[history, smart_tf.SmartPruningCallback(search_epochs=1)],
    )
    (mask,) = [masks[-1] for masks in history.masks.values()]
    assert mask.shape == (6, 8, 3, 2)
    groups = mask.reshape(6, 2, 4, 3, 2)
    assert (groups.sum(2) == 2).all()
    kernel = model.layers[0].kernel.numpy()
    np.testing.assert_array_equal(mask, kernel.transpose(3, 2, 0, 1) != 0)


def test_coupled_channels_show_the_mask_behind_their_normalisation():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(16, 3, use_bias=False, name="conv")(x)
    y = layers.ReLU()(layers.BatchNormalization(name="norm")(y))
    y = layers.Dense(4, name="head")(layers.GlobalAveragePooling2D()(y))
    channels = smart_tf.Channel(round_to=1)
    model = compiled(smart_tf.prune(keras.Model(x, y), 0.5, channels))
    norm = next(k for k in model.layers if k.name == "norm")
    gamma = EachBatch(lambda _: norm.weight_masks[0].logits.numpy().ravel())
    history = smart_tf.MaskHistory(every=1)
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
    model.fit(
        *(x, np.arange(16) % 4),
        batch_size=4,
        epochs=2,
        verbose=0,
        callbacks=[smart_tf.SmartPruningCallback(search_epochs=1), history, gamma],
    )
    soft, hard = history.masks["conv/kernel"][2], history.masks["conv/kernel"][-1]
    assert soft.shape == hard.shape == (16, 1, 1, 1)
    assert ((soft > 0) & (soft < 1)).any()
    by_mask, by_logit = np.argsort(soft.ravel()), np.argsort(gamma.seen[2])
    np.testing.assert_array_equal(
        *(np.argsort(order)[np.array([0, 5, 9, 15])] for order in (by_mask, by_logit))
    )
    kept = (model.get_layer("conv").kernel.numpy() != 0).any(axis=(0, 1, 2))
    np.testing.assert_array_equal(hard.ravel(), kept)
