"""The logits' own optimizer, next to the weights'."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import smart_tf
from smart_tf.flavours.keras3 import PruningOptimizer
from tests.references import EachBatch, assert_same, compiled, data, mlp, weights

X, Y = data()


def pruned(sparsity=0.5, seed=1):
    return smart_tf.prune(mlp(seed=seed), sparsity, "4x4")


def is_logit(variable):
    return "mask_logits" in variable.path


def gradients(model):
    """Random, and as large for the logits as for the weights."""
    rng = np.random.default_rng(0)
    return [
        tf.constant(rng.normal(size=v.shape), tf.float32)
        for v in model.trainable_variables
    ]


def split(model):
    """The values of the weights, and of the logits."""
    parts = ([], [])
    for variable in model.trainable_variables:
        parts[is_logit(variable)].append(variable.numpy())
    return parts


def apply(optimizer, model, times=1):
    for _ in range(times):
        pairs = zip(gradients(model), model.trainable_variables, strict=True)
        optimizer.apply_gradients(list(pairs))


def wrap(model, *args):
    return smart_tf.Pruner(model).wrap_optimizer(*args)


def fit(model, callback, epochs=2, **kwargs):
    options = {"batch_size": 16, "verbose": 0, "shuffle": False} | kwargs
    callbacks = [callback, *options.pop("more", [])]
    return model.fit(X, Y, epochs=epochs, callbacks=callbacks, **options)


# ---- Where the logits start


def test_logits_start_from_the_magnitudes_standardised_over_all_layers():
    model = pruned()
    logits, rms = [], []
    for layer in model.layers:
        (mask,) = layer.weight_masks
        logits.append(mask.logits.numpy().ravel())
        kernel = layer.kernel.numpy().astype(np.float64)
        tiles = kernel.reshape(kernel.shape[0] // 4, 4, -1, 4)
        rms.append(np.sqrt((tiles**2).mean(axis=(1, 3))).ravel())
    logits, rms = np.concatenate(logits), np.concatenate(rms)
    assert logits.mean() == pytest.approx(0, abs=1e-6)
    assert logits.std() == pytest.approx(0.1, rel=1e-5)
    np.testing.assert_allclose(logits, 0.1 * (rms - rms.mean()) / rms.std(), atol=1e-6)


def test_equal_magnitudes_start_at_zero():
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(8, kernel_initializer="ones")]
    )
    (layer,) = smart_tf.prune(model, 0.5, "4x4").layers
    np.testing.assert_array_equal(
        layer.weight_masks[0].logits.numpy(), np.zeros((2, 2))
    )


# ---- What each of the two gets


def test_weights_and_logits_are_updated_as_if_each_were_alone():
    model = pruned()
    optimizer = wrap(model, keras.optimizers.AdamW(1e-2, weight_decay=0.1))
    before, before_logits = split(model)
    apply(optimizer, model, 3)
    after, after_logits = split(model)

    alone, alone_logits = (
        [keras.Variable(v) for v in p] for p in (before, before_logits)
    )
    parts = ([], [])
    for gradient, variable in zip(
        gradients(model), model.trainable_variables, strict=False
    ):
        parts[is_logit(variable)].append(gradient)
    adam = keras.optimizers.AdamW(1e-2, weight_decay=0.1)
    sgd = keras.optimizers.SGD(1.0, momentum=0.9)
    for _ in range(3):
        adam.apply(parts[0], alone)
        sgd.apply(parts[1], alone_logits)
    assert_same([v.numpy() for v in alone], after, atol=1e-6)
    assert_same([v.numpy() for v in alone_logits], after_logits, atol=1e-5)


def test_weight_decay_never_acts_on_logits():
    for mask_optimizer in (None, "same"):
        model = pruned()
        decaying = keras.optimizers.AdamW(1e-2, weight_decay=10.0)
        optimizer = wrap(model, decaying, mask_optimizer)
        before = split(model)
        zero = [tf.zeros_like(v) for v in model.trainable_variables]
        optimizer.apply_gradients(
            list(zip(zero, model.trainable_variables, strict=True))
        )
        after = split(model)
        assert_same(before[1], after[1])
        assert np.abs(before[0][0] - after[0][0]).max() > 0


def test_global_clipnorm_is_of_the_weights_alone():
    model = pruned()
    optimizer = wrap(model, keras.optimizers.SGD(1.0, global_clipnorm=1.0))
    before, before_logits = split(model)
    apply(optimizer, model)
    after, after_logits = split(model)
    moved = [a - b for a, b in zip(after, before, strict=True)]
    norm = np.sqrt(sum((m.astype(np.float64) ** 2).sum() for m in moved))
    assert norm == pytest.approx(1.0, rel=1e-5)
    own = [
        g
        for g, v in zip(gradients(model), model.trainable_variables, strict=False)
        if is_logit(v)
    ]
    for a, b, g in zip(after_logits, before_logits, own, strict=True):
        np.testing.assert_allclose(b - a, g, atol=1e-5)  # rate 1, and not clipped


def test_the_weights_exclusions_from_weight_decay_are_kept():
    model = pruned()
    decaying = keras.optimizers.AdamW(1e-2, weight_decay=1.0)
    decaying.exclude_from_weight_decay(var_names=["bias"])
    for layer in model.layers:
        layer.bias.assign(tf.ones_like(layer.bias))
    optimizer = wrap(model, decaying)
    zero = [tf.zeros_like(v) for v in model.trainable_variables]
    optimizer.apply_gradients(list(zip(zero, model.trainable_variables, strict=True)))
    for layer in model.layers:
        np.testing.assert_array_equal(layer.bias.numpy(), np.ones(layer.bias.shape))


# ---- Learning rates


def rate(optimizer):
    return float(optimizer.mask_optimizer.learning_rate)


def test_the_logits_rate_follows_the_decay_of_the_weights_schedule():
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, 12, warmup_target=0.02, warmup_steps=4
    )
    model = pruned()
    optimizer = wrap(model, keras.optimizers.AdamW(schedule))
    for step in range(17):
        apply(optimizer, model)
        expected = float(schedule(step)) / 0.02  # of the default rate of 1
        assert rate(optimizer) == pytest.approx(expected, abs=1e-6)
    assert rate(optimizer) == 0


def test_what_a_schedule_does_behind_its_fall_is_no_peak():
    class Parabola(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.02 * (1 - tf.cast(step, tf.float32) / 1000) ** 2

        def get_config(self):
            return {}

    class Table(Parabola):
        def __call__(self, step):
            return tf.gather(tf.constant([0.01, 0.02, 0.01]), step)

    for schedule in (Parabola(), Table()):
        optimizer = wrap(pruned(), keras.optimizers.SGD(schedule))
        assert optimizer.peak_rate == pytest.approx(0.02)


def test_a_learning_rate_may_be_a_function_without_arguments():
    model = pruned()
    optimizer = wrap(model, keras.optimizers.SGD(lambda: 0.05))
    assert optimizer.peak_rate == pytest.approx(0.05)
    apply(optimizer, model)
    assert rate(optimizer) == pytest.approx(1)


def test_the_logits_rate_follows_what_callbacks_do_to_the_weights_rate():
    model = compiled(pruned(), keras.optimizers.SGD(0.1))
    look = EachBatch(lambda m: (float(m.optimizer.learning_rate), rate(m.optimizer)))
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / 2**epoch)
    callback = smart_tf.SmartPruningCallback(search_epochs=2)
    fit(model, callback, epochs=2, more=[scheduler, look])
    np.testing.assert_allclose(look.seen[0], (0.1, 1.0), rtol=1e-6)
    np.testing.assert_allclose(look.seen[-1], (0.05, 0.5), rtol=1e-6)


def test_same_copies_the_weights_optimizer_with_its_rate():
    model = pruned()
    optimizer = wrap(model, keras.optimizers.AdamW(0.03, weight_decay=0.1), "same")
    assert type(optimizer.mask_optimizer) is keras.optimizers.AdamW
    apply(optimizer, model)
    assert rate(optimizer) == pytest.approx(0.03)


def test_an_optimizer_of_the_users_own_keeps_its_own_schedule():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])
    model = pruned()
    own = keras.optimizers.SGD(schedule)
    optimizer = wrap(model, keras.optimizers.Adam(1e-3), own)
    _, before = split(model)
    apply(optimizer, model, 3)
    _, after = split(model)
    own = [
        g
        for g, v in zip(gradients(model), model.trainable_variables, strict=False)
        if is_logit(v)
    ]
    for a, b, g in zip(after, before, own, strict=True):
        np.testing.assert_allclose(b - a, (0.5 + 0.5 + 0.25) * g, atol=1e-5)


def test_a_number_as_own_rate_follows_the_weights_decay():
    decay = keras.optimizers.schedules.PolynomialDecay(0.1, 4, 0.0)
    model = pruned()
    optimizer = wrap(model, keras.optimizers.SGD(decay), keras.optimizers.SGD(0.5))
    rates = []
    for _ in range(5):
        apply(optimizer, model)
        rates.append(rate(optimizer))
    np.testing.assert_allclose(rates, [0.5, 0.375, 0.25, 0.125, 0.0], atol=1e-6)


# ---- In a model's life


def test_a_used_optimizer_keeps_what_it_learnt_of_the_weights():
    model = compiled(mlp(), keras.optimizers.Adam(1e-2))
    model.fit(X, Y, epochs=2, batch_size=16, verbose=0)
    used = model.optimizer
    slots = {v.path: v.numpy() for v in used.variables}
    pruned_model = compiled(smart_tf.prune(model, 0.5, "4x4"), used)
    seen = []

    class AtTheStart(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            part = self.model.optimizer.weights_optimizer
            seen.append({v.path: v.numpy() for v in part.variables})

    callback = smart_tf.SmartPruningCallback(search_epochs=1)
    fit(pruned_model, callback, more=[AtTheStart()])
    assert slots.keys() == seen[0].keys()
    for path, value in slots.items():
        np.testing.assert_array_equal(value, seen[0][path], err_msg=path)
    assert int(pruned_model.optimizer.iterations) == 8 + 8


def test_wrapping_twice_changes_nothing():
    model = compiled(pruned(), "adam")
    fit(model, smart_tf.SmartPruningCallback(search_epochs=1))
    first = model.optimizer
    assert isinstance(first, PruningOptimizer)
    fit(model, smart_tf.SmartPruningCallback(search_epochs=1))
    assert model.optimizer is first


def test_a_loss_scaling_optimizer_keeps_its_settings_and_its_scale():
    scaling = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(1e-2), initial_scale=64.0, dynamic_growth_steps=5
    )
    model = compiled(pruned(), scaling, auto_scale_loss=False)
    fit(model, smart_tf.SmartPruningCallback(search_epochs=1))
    assert isinstance(model.optimizer.inner_optimizer, PruningOptimizer)
    assert model.optimizer.dynamic_growth_steps == 5
    assert float(model.optimizer.dynamic_scale) == 128.0  # doubled once in 8 steps
    before = model.optimizer
    fit(model, smart_tf.SmartPruningCallback(search_epochs=1))
    assert model.optimizer is before
    assert float(model.optimizer.dynamic_scale) == 64.0 * 2**3  # 16 steps


class Subclassed(keras.Model):
    """Wrapped in place: it stays compiled, and has its graphs traced already."""

    def __init__(self):
        super().__init__()
        self.first, self.last = keras.layers.Dense(16), keras.layers.Dense(4)

    def call(self, x):
        return self.last(self.first(x))


def test_a_compiled_model_follows_what_is_done_to_its_layers():
    model = compiled(Subclassed(), keras.optimizers.Adam(0.005))
    dense = model.predict(X, verbose=0)
    pruned_model = smart_tf.prune(model, 0.5, "4x4")
    fit(pruned_model, smart_tf.SmartPruningCallback(search_epochs=1))
    pruned_model.evaluate(X, Y, verbose=0)
    stripped = smart_tf.strip_pruning(pruned_model)
    assert type(stripped.optimizer) is keras.optimizers.Adam
    assert float(stripped.optimizer.learning_rate) == pytest.approx(0.005)
    assert np.abs(stripped.predict(X, verbose=0) - dense).max() > 1e-2
    assert_same([stripped.predict(X, verbose=0)], [stripped(X).numpy()], atol=1e-6)
    stripped.fit(X, Y, verbose=0)  # as any plain model: nothing holds the zeros
    assert (stripped.first.kernel.numpy() != 0).mean() > 0.9


def test_the_optimizer_round_trips_through_its_config():
    model = pruned()
    optimizer = wrap(model, keras.optimizers.AdamW(0.01, weight_decay=0.2))
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(optimizer)
    )
    assert again.get_config() == optimizer.get_config()
    twin = pruned()
    apply(optimizer, model, 2)
    apply(again, twin, 2)
    assert_same(weights(model), weights(twin))


@pytest.mark.parametrize("wrong", ["different", 0.1, object()], ids=str)
def test_a_wrong_mask_optimizer_is_refused(wrong):
    with pytest.raises(TypeError, match="Argument `mask_optimizer`.*Received"):
        wrap(pruned(), keras.optimizers.SGD(), wrong)


# ---- Pruned weights stay zero


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(keras.optimizers.Adam(1e-2), marks=pytest.mark.slow, id="adam"),
        pytest.param(keras.optimizers.AdamW(1e-2, weight_decay=0.1), id="adamw"),
        pytest.param(
            keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), id="momentum"
        ),
        pytest.param(
            keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9), id="ema"
        ),
        pytest.param(
            keras.optimizers.Adam(1e-2, use_ema=True, ema_overwrite_frequency=3),
            id="ema_overwrite",
        ),
    ],
)
def test_raw_kernels_are_exactly_zero_after_every_step(optimizer):
    def zeros(model):
        kernels = [layer.kernel.numpy() for layer in model.layers]
        return float(np.mean(np.concatenate([k.ravel() for k in kernels]) == 0))

    model = compiled(pruned(0.75), optimizer)
    look = EachBatch(zeros)
    fit(model, smart_tf.SmartPruningCallback(search_epochs=1), epochs=3, more=[look])
    assert look.seen[2] == 0
    assert set(look.seen[3:]) == {0.75}
    assert zeros(model) == 0.75  # averaged weights are folded too


def test_the_logits_rate_never_exceeds_its_own():
    model = compiled(pruned(), keras.optimizers.SGD(1e-6))
    raise_rate = keras.callbacks.LearningRateScheduler(
        lambda epoch: 10.0 ** (epoch - 6)
    )
    fit(model, smart_tf.SmartPruningCallback(), epochs=4, more=[raise_rate])
    assert float(model.optimizer.mask_optimizer.learning_rate) == 1.0


def test_a_mask_optimizer_that_comes_too_late_is_told():
    model = compiled(pruned())
    fit(model, smart_tf.SmartPruningCallback(search_epochs=1))
    other = keras.optimizers.Adam(0.1)
    with pytest.warns(UserWarning, match="`mask_optimizer` is ignored.*has a SGD"):
        fit(model, smart_tf.SmartPruningCallback(mask_optimizer=other))
    model = compiled(smart_tf.prune(mlp(), 0.5, "4x4", method="magnitude"))
    with pytest.warns(UserWarning, match="`mask_optimizer` is ignored.*no logits"):
        fit(model, smart_tf.SmartPruningCallback(mask_optimizer=other))


def test_averaged_weights_can_be_swapped_in_for_evaluation():
    losses = []
    for more in ([], [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]):
        optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
        model = compiled(pruned(0.75), optimizer)
        callback = smart_tf.SmartPruningCallback(search_epochs=1)
        options = {"epochs": 3, "validation_data": (X, Y)}
        history = fit(model, callback, more=more, **options).history
        losses.append(history)
        stripped = smart_tf.strip_pruning(model)
        assert smart_tf.report(stripped).sparsity == 0.75
    np.testing.assert_allclose(losses[1]["loss"], losses[0]["loss"], rtol=1e-5)
    assert np.abs(np.subtract(losses[1]["val_loss"], losses[0]["val_loss"])).min() > 0


@pytest.mark.parametrize("method", ["smart", "magnitude"])
def test_averages_of_weights_are_sparse_in_every_checkpoint(tmp_path, method):
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
    model = compiled(smart_tf.prune(mlp(), 0.75, "4x4", method), optimizer)
    file = str(tmp_path / "{epoch}.weights.h5")
    more = [
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        keras.callbacks.ModelCheckpoint(file, save_weights_only=True),
    ]
    fit(model, smart_tf.SmartPruningCallback(search_epochs=1), epochs=3, more=more)
    now = [layer.kernel.numpy() for layer in model.layers]
    for epoch in (1, 2):
        model.load_weights(file.format(epoch=epoch))
        saved = [layer.kernel.numpy() for layer in model.layers]
        for average, last in zip(saved, now, strict=True):
            np.testing.assert_array_equal(average == 0, last == 0)
            assert np.abs(average - last).max() > 0


def test_swapping_averages_without_any_is_refused_as_by_keras():
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    with pytest.raises(ValueError, match="use_ema=False"):
        fit(compiled(pruned()), smart_tf.SmartPruningCallback(), more=[swap])


def test_callbacks_for_the_learning_rate_see_that_of_the_weights_alone():
    asked = []

    def rate(epoch, last):
        asked.append((epoch, round(last, 6)))
        return last / 2

    own = keras.optimizers.schedules.ExponentialDecay(0.5, 100, 0.9)
    callback = smart_tf.SmartPruningCallback(mask_optimizer=keras.optimizers.SGD(own))
    model = compiled(pruned(), keras.optimizers.SGD(0.1))
    more = [
        keras.callbacks.LearningRateScheduler(rate),
        keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=9),
    ]
    history = fit(model, callback, more=more, epochs=3).history
    assert asked == [(0, 0.1), (1, 0.05), (2, 0.025)]
    assert history["learning_rate"] == pytest.approx([0.05, 0.025, 0.0125])
    assert not [key for key in history if key.startswith("learning_rate_")]


def test_gradients_go_to_the_variables_in_the_order_of_build():
    model = pruned()
    optimizer = wrap(model, keras.optimizers.SGD(0.1))
    variables = model.trainable_variables[::-1]
    optimizer.build(variables)
    before = [v.numpy() for v in variables]
    optimizer.apply([tf.fill(v.shape, float(k)) for k, v in enumerate(variables)])
    for k, (old, variable) in enumerate(zip(before, variables, strict=True)):
        if not is_logit(variable) and not variable.path.endswith("kernel"):
            np.testing.assert_allclose(variable, old - 0.1 * k, atol=1e-5)
        assert (variable.numpy() != old).any() == (k > 0)
