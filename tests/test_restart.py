"""A learning rate that starts over when the masks freeze."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import smart_tf
from smart_tf.flavours.keras3 import RestartedSchedule
from tests.references import EachBatch, compiled, data, mlp

X, Y = data()
PEAK = 0.02
STEPS = 16  # 4 epochs of 4 steps


def cosine(x):
    return PEAK * (1 + np.cos(np.pi * np.asarray(x))) / 2


def expected(freeze=8):
    """By hand: a cosine over the run, and another one over what the freeze leaves."""
    again = np.round(np.arange(STEPS - freeze) * STEPS / (STEPS - freeze))
    return cosine(np.concatenate([np.arange(freeze), again]) / STEPS)


def decay(steps=STEPS):
    return keras.optimizers.schedules.CosineDecay(PEAK, steps)


def pruned(optimizer=None, method="smart"):
    model = smart_tf.prune(mlp(), 0.75, "4x4", method=method)
    return compiled(model, optimizer or keras.optimizers.SGD(decay()))


def callback(search_epochs=2, **kwargs):
    return smart_tf.SmartPruningCallback(
        search_epochs=search_epochs, restart_learning_rate=True, **kwargs
    )


def fit(model, *callbacks, epochs=4, **kwargs):
    settings = {"batch_size": 16, "verbose": 0, "shuffle": False} | kwargs
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **settings)


def rate_of_logits(model):
    """What the graph gave them; it follows the rate of the weights."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return PEAK * float(optimizer.mask_optimizer.learning_rate)


def rates(model, *callbacks, **kwargs):
    look = EachBatch(rate_of_logits)
    fit(model, *callbacks, look, **kwargs)
    return look.seen


# ---- The schedule


def test_it_is_gone_through_again_in_what_is_left():
    schedule = RestartedSchedule(decay(), 0, 8, STEPS)
    found = [float(schedule(step)) for step in range(STEPS)]
    np.testing.assert_allclose(found, expected(), rtol=1e-5)
    assert float(schedule(STEPS)) == pytest.approx(0, abs=1e-9)


def test_behind_the_end_it_is_the_schedule_again():
    schedule = RestartedSchedule(decay(2 * STEPS), 0, 12, STEPS)
    for step in range(STEPS, 2 * STEPS):
        assert float(schedule(step)) == pytest.approx(float(decay(2 * STEPS)(step)))


def test_schedules_may_look_the_step_up_in_a_table():
    table = np.linspace(1, 0, STEPS).astype("float32")

    class Table(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return tf.gather(table, tf.minimum(step, STEPS - 1))

        def get_config(self):
            return {}

    schedule = RestartedSchedule(Table(), 0, 8, STEPS)
    found = [float(schedule(tf.constant(step, tf.int64))) for step in range(STEPS)]
    np.testing.assert_allclose(found, [*table[:8], *table[::2]])
    model = pruned(keras.optimizers.SGD(Table()))
    fit(model, callback())  # in its graph; the class is not registered
    assert smart_tf.report(model).phase == "frozen"


def test_without_an_update_before_the_freeze_nothing_changes():
    schedule = RestartedSchedule(decay(), 0, 0, STEPS)
    for step in range(STEPS):
        assert float(schedule(step)) == pytest.approx(float(decay()(step)))


def test_steps_and_warm_ups_start_over_too():
    steps = keras.optimizers.schedules.PiecewiseConstantDecay([4, 12], [1.0, 0.5, 0.1])
    schedule = RestartedSchedule(steps, 0, 8, STEPS)
    found = [float(schedule(step)) for step in range(STEPS)]
    np.testing.assert_allclose(found[:8], [1] * 5 + [0.5] * 3)
    np.testing.assert_allclose(found[8:], [1] * 3 + [0.5] * 4 + [0.1])


def test_it_is_saved_with_an_optimizer():
    schedule = RestartedSchedule(decay(), 2, 6, STEPS)
    config = keras.saving.serialize_keras_object(keras.optimizers.Adam(schedule))
    loaded = keras.saving.deserialize_keras_object(config)._learning_rate
    assert type(loaded) is RestartedSchedule
    assert loaded.get_config() == schedule.get_config()


def test_it_takes_a_schedule():
    with pytest.raises(TypeError, match="`schedule` must be a `LearningRateSchedule`"):
        RestartedSchedule(0.1, 0, 6, STEPS)


@pytest.mark.parametrize("updates", [(-1, 6, 16), (7, 6, 16), (0, 16, 16)])
def test_updates_have_to_rise(updates):
    with pytest.raises(ValueError, match="`begin`, `freeze` and `end` must be"):
        RestartedSchedule(decay(), *updates)


# ---- In `fit`


def test_the_rate_starts_over_at_the_freeze():
    np.testing.assert_allclose(rates(pruned(), callback()), expected(), rtol=1e-4)


def test_by_default_it_does_not():
    plain = smart_tf.SmartPruningCallback(search_epochs=2)
    found = rates(pruned(), plain)
    np.testing.assert_allclose(found, cosine(np.arange(STEPS) / STEPS), rtol=1e-4)


def test_dense_training_before_the_search_is_a_part_of_the_run():
    found = rates(pruned(), callback(pretrain_epochs=1))
    np.testing.assert_allclose(found, expected(freeze=12), rtol=1e-4)


def test_methods_without_logits_restart_as_well():
    inputs = keras.Input((16,))
    dense = keras.layers.Dense(4, name="last", kernel_initializer="ones")
    model = keras.Model(inputs, dense(inputs))
    model = smart_tf.prune(model, 0.5, "4x4", method="magnitude")
    # The loss is the mean of the outputs: a bias gets a gradient of 1/4.
    mean = lambda _, outputs: tf.reduce_mean(outputs, -1)  # noqa: E731
    model.compile(keras.optimizers.SGD(decay()), mean)
    look = EachBatch(lambda m: m.get_layer("last").layer.bias.numpy()[0])
    fit(model, callback(), look)
    moves = -4 * np.diff([0, *look.seen])
    np.testing.assert_allclose(moves, expected(), rtol=1e-3, atol=1e-6)


def test_with_scaled_losses():
    scaled = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(decay()), initial_scale=2.0
    )
    found = rates(pruned(scaled), callback())
    np.testing.assert_allclose(found, expected(), rtol=1e-4)


def test_with_accumulated_gradients():
    optimizer = keras.optimizers.SGD(decay(), gradient_accumulation_steps=2)
    model = pruned(optimizer)
    look = EachBatch(lambda m: float(m.optimizer.learning_rate))
    with warnings.catch_warnings():
        # That no optimizer of ours does the updates.
        warnings.filterwarnings("error", message="`train_step` updates the model")
        fit(model, callback(), look)
    np.testing.assert_allclose(look.seen[:-1], expected()[1:], rtol=1e-4)


def test_after_dense_training_with_the_same_optimizer():
    model = pruned(keras.optimizers.SGD(decay(2 * STEPS)))
    with pytest.warns(UserWarning, match="nothing drives"):
        fit(model)
    found = rates(model, callback())
    updates = np.concatenate([np.arange(8), np.arange(8) * 2]) + STEPS
    wanted = cosine(updates / (2 * STEPS))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("at", [1, 3])
def test_a_run_that_goes_on_keeps_its_rates(at, tmp_path):
    model = pruned()
    start = EachBatch(rate_of_logits)
    interrupted = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(
            model, "stop_training", epoch == at - 1
        )
    )
    driver = callback()
    if at == 1:
        with pytest.warns(UserWarning, match="no mask is hard yet"):
            fit(model, driver, start, interrupted)
    else:
        fit(model, driver, start, interrupted)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    rest = rates(loaded, callback(), initial_epoch=at)
    np.testing.assert_allclose([*start.seen, *rest], expected(), rtol=1e-4)


@pytest.mark.parametrize("batches", [3, 11])
def test_a_run_that_is_restored_in_the_middle_of_an_epoch(batches, tmp_path):
    class Kill(keras.callbacks.Callback):
        seen = 0

        def on_train_batch_end(self, batch, logs=None):
            self.seen += 1
            if self.seen == batches:
                raise InterruptedError

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=1)

    with pytest.raises(InterruptedError):
        fit(pruned(), callback(), backup(), Kill())
    model = pruned()
    fit(model, callback(), backup())
    schedule = model.optimizer.weights_optimizer._learning_rate
    assert (schedule.begin, schedule.freeze) == (0, 8)


def test_a_run_that_began_late_goes_on_as_it_began(tmp_path):
    model = pruned(keras.optimizers.SGD(decay(2 * STEPS)))
    with pytest.warns(UserWarning, match="nothing drives"):
        fit(model)
    with pytest.warns(UserWarning, match="too short|no mask is hard yet"):
        stop = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", True)
        )
        fit(model, callback(), stop, initial_epoch=4, epochs=8)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    fit(loaded, callback(), initial_epoch=5, epochs=8)
    schedule = loaded.optimizer.weights_optimizer._learning_rate
    assert (schedule.begin, schedule.freeze, schedule.end) == (16, 24, 32)


def test_a_second_run_has_what_is_left_of_the_schedule():
    model = pruned(keras.optimizers.SGD(decay(2 * STEPS)))
    fit(model, callback())
    found = rates(model, callback())
    rest = np.arange(STEPS, 2 * STEPS) / (2 * STEPS)
    np.testing.assert_allclose(found, cosine(rest), rtol=1e-4)


@pytest.mark.parametrize("method", ["smart", "magnitude"])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_stripped_model_has_the_optimizer_that_it_was_compiled_with(method, scaled):
    optimizer = keras.optimizers.SGD(decay())
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model = pruned(optimizer, method)
    fit(model, callback())
    stripped = smart_tf.strip_pruning(model)
    left = stripped.optimizer
    if scaled:
        assert type(left) is keras.optimizers.LossScaleOptimizer
        left = left.inner_optimizer
    assert type(left) is keras.optimizers.SGD
    assert type(left._learning_rate) is keras.optimizers.schedules.CosineDecay
    config = str(keras.saving.serialize_keras_object(stripped.optimizer))
    assert "smart_tf" not in config  # Without it the file has to load as well.
    fit(stripped, epochs=1)


def test_a_run_after_the_freeze_keeps_the_rate_that_it_is_given():
    model = pruned()
    fit(model, callback())
    model.compile(keras.optimizers.SGD(decay()), model.loss)
    found = rates(model, callback())
    np.testing.assert_allclose(found, cosine(np.arange(STEPS) / STEPS), rtol=1e-4)


# ---- What cannot be


def test_a_constant_rate_has_nothing_to_start_over():
    model = pruned(keras.optimizers.SGD(0.1))
    for search_epochs in (2, 4):
        with pytest.raises(ValueError, match="rate is a `LearningRateSchedule`"):
            fit(model, callback(search_epochs))
    assert int(model.layers[0].pruning_step) == -1


def test_where_training_ends_with_the_freeze_there_is_nothing_to_go_through():
    found = rates(pruned(), callback(search_epochs=4))
    np.testing.assert_allclose(found, cosine(np.arange(STEPS) / STEPS), rtol=1e-4)


def test_it_takes_a_run_of_known_length():
    batches = tf.data.Dataset.from_generator(
        lambda: ((X[i : i + 16], Y[i : i + 16]) for i in range(0, 64, 16)),
        output_signature=(
            tf.TensorSpec((None, 16), tf.float32),
            tf.TensorSpec((None, *Y.shape[1:]), Y.dtype),
        ),
    )
    driver = smart_tf.SmartPruningCallback(
        schedule=smart_tf.TemperatureSchedule(0, 6), restart_learning_rate=True
    )
    with pytest.raises(ValueError, match="how many updates `fit` will make"):
        pruned().fit(batches, epochs=4, callbacks=[driver], verbose=0)
