"""Training tf_keras models with `SmartPruningCallback`, and without it."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

import smart_tf
from tests.tf_keras import tiny

optimizers = tf_keras.optimizers


def pruned_model(sparsity=0.5, structure="4x4", **kwargs):
    return smart_tf.prune(tiny.sequential(), sparsity, structure, **kwargs)


class Recorder(tf_keras.callbacks.Callback):
    """Notes phase and zeros after every batch and every epoch."""

    def __init__(self):
        super().__init__()
        self.batches, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(self._now())

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self._now())

    def _now(self):
        return smart_tf.report(self.model).phase, tiny.sparsity(self.model)


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.Adam(1e-2),
        lambda: optimizers.AdamW(1e-2, weight_decay=0.1),
        lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ],
    ids=["Adam", "AdamW", "SGD"],
)
def test_zeros_stay_exact_and_checkpoints_are_sparse(make, tmp_path):
    pruned = tiny.compiled(pruned_model(), make())
    record = Recorder()
    checkpoint = tf_keras.callbacks.ModelCheckpoint(
        str(tmp_path / "{epoch}.weights.h5"), save_weights_only=True
    )
    callback = smart_tf.SmartPruningCallback(pretrain_epochs=1, search_epochs=1)
    # tfmot's checkpoints are only sparse if written after its own callback.
    tiny.fit(pruned, 5, [checkpoint, record, callback])
    phases = [phase for phase, _ in record.epochs]
    assert phases == ["dense"] + ["frozen"] * 4
    assert [phase for phase, _ in record.batches[4:8]] == ["searching"] * 4
    zeros = [fraction for _, fraction in [*record.batches[8:], *record.epochs[1:]]]
    assert zeros[0] == pytest.approx(0.5, abs=16 / 832)
    assert len(set(zeros)) == 1
    kernels = tiny.kernels(pruned)
    for epoch in (2, 3, 4, 5):
        other = pruned_model()
        other.load_weights(tmp_path / f"{epoch}.weights.h5")
        for name, kernel in tiny.kernels(other).items():
            np.testing.assert_array_equal(kernel == 0, kernels[name] == 0)


def test_frozen_masks_are_the_top_of_the_logits_of_all_layers():
    pruned = tiny.compiled(pruned_model())
    callback = smart_tf.SmartPruningCallback(search_epochs=2)
    history = tiny.fit(pruned, 3, [callback]).history
    masks = [m for w in tiny.wrappers(pruned) for m in w.weight_masks]
    logits = np.concatenate([m.logits.numpy().ravel() for m in masks])
    kept = np.concatenate([m.mask.numpy().ravel() for m in masks])
    np.testing.assert_array_equal(np.flatnonzero(kept), np.sort(logits.argsort()[-26:]))
    for mask in masks:
        blocks = tiny.zero_fraction_of_blocks(mask.weight.variable.numpy(), 4, 4)
        np.testing.assert_array_equal(blocks.ravel(), 1 - mask.mask.numpy().ravel())
    assert history["sparsity"] == [0.5] * 3
    assert history["temperature"][0] > history["temperature"][1]


def test_logits_are_learnt_and_move_with_their_own_optimizer():
    pruned = tiny.compiled(pruned_model(), optimizers.Adam(1e-2, clipnorm=1.0))
    before = [m.logits.numpy() for w in tiny.wrappers(pruned) for m in w.weight_masks]
    tiny.fit(pruned, 2, [smart_tf.SmartPruningCallback(search_epochs=1)])
    after = [m.logits.numpy() for w in tiny.wrappers(pruned) for m in w.weight_masks]
    assert all((a != b).any() for a, b in zip(before, after, strict=True))
    mask_optimizer = pruned.optimizer.mask_optimizer
    assert isinstance(mask_optimizer, optimizers.SGD)
    assert isinstance(pruned.optimizer.weights_optimizer, optimizers.Adam)
    shapes = {tuple(v.shape) for v in mask_optimizer.variables if v.shape.rank == 2}
    assert shapes == {b.shape for b in before}


def test_a_forgotten_callback_warns_once_and_can_be_added_later():
    pruned = tiny.compiled(pruned_model())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny.fit(pruned, 2)
    (message,) = [str(w.message) for w in caught if "prun" in str(w.message)]
    assert "SmartPruningCallback" in message
    assert tiny.sparsity(pruned) == 0
    before = [w.weight_masks[0].logits.numpy() for w in tiny.wrappers(pruned)]
    tiny.fit(pruned, 2, [smart_tf.SmartPruningCallback(search_epochs=1)])
    after = [w.weight_masks[0].logits.numpy() for w in tiny.wrappers(pruned)]
    assert all((a != b).any() for a, b in zip(before, after, strict=True))
    assert tiny.sparsity(pruned) == pytest.approx(0.5, abs=16 / 832)


def test_a_run_that_is_too_short_raises_before_the_first_step():
    pruned = tiny.compiled(pruned_model())
    values = pruned.get_weights()
    for callback in (
        smart_tf.SmartPruningCallback(pretrain_epochs=1, search_epochs=3),
        smart_tf.SmartPruningCallback(schedule=smart_tf.TemperatureSchedule(0, 13)),
    ):
        with pytest.raises(ValueError, match="too short for its pruning schedule"):
            tiny.fit(pruned, 3, [callback])
    for a, b in zip(pruned.get_weights(), values, strict=True):
        np.testing.assert_array_equal(a, b)
    endless = tf.data.Dataset.from_generator(
        lambda: iter([]), output_signature=(tf.TensorSpec((16, 8)), tf.TensorSpec(16))
    )
    with pytest.raises(ValueError, match="number of steps per epoch is unknown"):
        pruned.fit(endless, epochs=3, callbacks=[smart_tf.SmartPruningCallback()])


@pytest.mark.parametrize("structure", ["4x4", "2:4"])
def test_legacy_optimizers_are_refused(structure):
    pruned = tiny.compiled(pruned_model(0.5, structure), optimizers.legacy.Adam(1e-2))
    with pytest.raises(TypeError, match="not a legacy one"):
        tiny.fit(pruned, 2, [smart_tf.SmartPruningCallback()])


def test_a_shared_layer_is_stepped_once_a_batch():
    pruned = tiny.compiled(smart_tf.prune(tiny.siamese(), 0.5, "4x4"))
    tiny.fit(pruned, 2, [smart_tf.SmartPruningCallback()])
    shared, last = tiny.wrappers(pruned)
    assert int(shared.pruning_step) == int(last.pruning_step) == 8


@pytest.mark.parametrize("steps", [1, 3])
def test_steps_per_execution(steps):
    """The freeze may come late then; until it does, the masks stay on."""
    pruned = tiny.compiled(pruned_model(), steps_per_execution=steps)
    record = Recorder()
    schedule = smart_tf.TemperatureSchedule(0, 10)
    callback = smart_tf.SmartPruningCallback(schedule=schedule)
    tiny.fit(pruned, 2, [callback, record], count=96)  # 6 updates an epoch
    phases = [phase for phase, _ in record.batches]
    late = -(-10 // steps) - 1
    assert phases == ["searching"] * late + ["frozen"] * (12 // steps - late)
    assert all(int(w.pruning_step) == 12 for w in tiny.wrappers(pruned))


@pytest.mark.slow
def test_jit_compile_trains_the_same():
    trained = []
    for jit in (False, True):
        tf_keras.utils.set_random_seed(3)
        pruned = tiny.compiled(pruned_model(), optimizers.SGD(0.1), jit_compile=jit)
        tiny.fit(pruned, 3, [smart_tf.SmartPruningCallback(search_epochs=2)])
        trained.append(tiny.kernels(pruned))
    for name, kernel in trained[0].items():
        np.testing.assert_array_equal(kernel == 0, trained[1][name] == 0)
        np.testing.assert_allclose(kernel, trained[1][name], atol=1e-3)


@pytest.mark.slow
def test_run_eagerly_trains_the_same():
    trained = []
    for eager in (False, True):
        tf_keras.utils.set_random_seed(3)
        pruned = tiny.compiled(pruned_model(), optimizers.SGD(0.1), run_eagerly=eager)
        tiny.fit(pruned, 3, [smart_tf.SmartPruningCallback(search_epochs=2)])
        trained.append(tiny.kernels(pruned))
    for name, kernel in trained[0].items():
        np.testing.assert_allclose(kernel, trained[1][name], atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        model = tiny.sequential()
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    pruned = smart_tf.prune(model, 0.5, "4x4")
    x = tiny.inputs_for(model)
    assert pruned(x).dtype == model(x).dtype == tf.dtypes.as_dtype(policy[6:])
    np.testing.assert_array_equal(pruned(x), model(x))
    optimizer = optimizers.Adam(1e-2)
    if policy == "mixed_float16":
        optimizer = tf_keras.mixed_precision.LossScaleOptimizer(optimizer)
    tiny.fit(tiny.compiled(pruned, optimizer), 2, [smart_tf.SmartPruningCallback()])
    assert all(k.dtype == np.float32 for k in tiny.kernels(pruned).values())
    assert tiny.sparsity(pruned) == pytest.approx(0.5, abs=16 / 832)
    assert all(int(w.pruning_step) == 8 for w in tiny.wrappers(pruned))


def test_learning_rate_schedules_reach_the_logits():
    decay = optimizers.schedules.CosineDecay(1e-2, 8)
    pruned = tiny.compiled(pruned_model(), optimizers.AdamW(decay))
    tiny.fit(pruned, 2, [smart_tf.SmartPruningCallback(search_epochs=1)])
    rate = float(pruned.optimizer.mask_optimizer.learning_rate)
    assert rate == pytest.approx(float(decay(7)) / 1e-2, rel=1e-4)


def test_the_learning_rate_starts_over_at_the_freeze(tmp_path):
    decay = optimizers.schedules.CosineDecay(1e-2, 16)
    pruned = tiny.compiled(pruned_model(), optimizers.AdamW(decay))
    callback = smart_tf.SmartPruningCallback(
        search_epochs=1, restart_learning_rate=True
    )
    seen = []
    look = tf_keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(
            float(pruned.optimizer.mask_optimizer.learning_rate)
        )
    )
    tiny.fit(pruned, 4, [callback, look])  # of 4 updates
    whole, rest = np.arange(4) / 16, np.round(np.arange(12) * 16 / 12) / 16
    wanted = (1 + np.cos(np.pi * np.concatenate([whole, rest]))) / 2
    np.testing.assert_allclose(seen, wanted, rtol=1e-4)
    for name in ("model.keras", "model.h5"):
        pruned.save(tmp_path / name)
        loaded = tf_keras.models.load_model(tmp_path / name)
        kept = loaded.optimizer.weights_optimizer._learning_rate
        assert (kept.begin, kept.freeze, kept.end) == (0, 4, 16)
        assert float(kept(4)) == pytest.approx(1e-2)


def test_learning_rate_callbacks_reach_the_logits():
    pruned = tiny.compiled(pruned_model(), optimizers.SGD(0.1))
    slower = tf_keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
    tiny.fit(pruned, 2, [slower, smart_tf.SmartPruningCallback(search_epochs=1)])
    assert float(pruned.optimizer.learning_rate) == pytest.approx(0.05)
    assert float(pruned.optimizer.mask_optimizer.learning_rate) == pytest.approx(0.5)


def test_what_the_optimizer_has_learnt_is_kept():
    pruned = tiny.compiled(pruned_model(), optimizers.Adam(1e-2))
    with pytest.warns(UserWarning, match="nothing drives"):
        tiny.fit(pruned, 1)
    learnt = {v.name: v.numpy() for v in pruned.optimizer.variables}
    inner = smart_tf.Pruner(pruned).wrap_optimizer(pruned.optimizer).weights_optimizer
    moments = {v.name: v.numpy() for v in inner.variables}
    assert sum("/m/" in name and moments[name].any() for name in moments) == 6
    for name, value in moments.items():
        np.testing.assert_array_equal(value, learnt[name])


def test_weight_decay_exclusions_of_the_user_survive():
    pruned = pruned_model()
    optimizer = optimizers.AdamW(0.0, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    wrapped = smart_tf.Pruner(pruned).wrap_optimizer(optimizer)
    inner = wrapped.weights_optimizer
    assert inner._exclude_from_weight_decay_names == ["bias"]


def test_statistics_of_batch_norm_move_as_without_wrappers():
    tf_keras.utils.set_random_seed(1)
    plain = tiny.convolutional(dropout=0)
    pruned = smart_tf.prune(tf_keras.models.clone_model(plain), 0.0, "4x4")
    pruned.get_layer("norm").set_weights(plain.get_layer("norm").get_weights())
    for wrapper in tiny.wrappers(pruned):
        weights = plain.get_layer(wrapper.layer.name).get_weights()
        wrapper.layer.set_weights(weights)
    for model in (plain, pruned):
        tiny.compiled(model, optimizers.SGD(0.05))
        callbacks = [] if model is plain else [smart_tf.SmartPruningCallback()]
        tiny.fit(model, 2, callbacks)
    # Nothing is to be pruned, so that all is as ever.
    for name, kernel in tiny.kernels(plain).items():
        np.testing.assert_allclose(tiny.kernels(pruned)[name], kernel, atol=1e-4)
    norms = [m.get_layer("norm").get_weights() for m in (plain, pruned)]
    for a, b in zip(*norms, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert not np.allclose(norms[0][2], 0)


def test_custom_training_loop():
    pruned = pruned_model()
    pruner = smart_tf.Pruner(pruned, smart_tf.TemperatureSchedule(2, 6))
    optimizer = pruner.wrap_optimizer(optimizers.Adam(1e-2))
    loss_of = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def update(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, pruned(x, training=True))
        weights = pruned.trainable_variables
        gradients = tape.gradient(loss, weights)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))

    x, y = tiny.inputs_for(pruned), tiny.targets_for(pruned)
    phases = []
    pruner.start()
    for _ in range(8):
        update(x, y)
        pruner.step()
        phases.append(smart_tf.report(pruned).phase)
    assert phases == ["dense"] * 2 + ["searching"] * 3 + ["frozen"] * 3
    assert tiny.sparsity(pruned) == pytest.approx(0.5, abs=16 / 832)


def test_constraints_of_the_user_hold_and_come_back():
    model = tf_keras.Sequential(
        [tf_keras.Input((8,)), layers.Dense(4, kernel_constraint="max_norm")]
    )
    constraint = model.layers[0].kernel.constraint
    model.layers[0].kernel_constraint.max_value = 0.1
    pruned = tiny.compiled(smart_tf.prune(model, 0.5, "4x4"))
    tiny.fit(pruned, 2, [smart_tf.SmartPruningCallback()])
    (kernel,) = tiny.kernels(pruned).values()
    assert np.linalg.norm(kernel, axis=0).max() <= 0.1 + 1e-6
    final = smart_tf.strip_pruning(pruned)
    assert final.layers[0].kernel.constraint is constraint


def test_training_stopped_in_the_search_warns():
    pruned = tiny.compiled(pruned_model())

    class Stop(tf_keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    with pytest.warns(UserWarning, match="in the middle of the search"):
        tiny.fit(pruned, 4, [smart_tf.SmartPruningCallback(), Stop()])


def test_updates_that_loss_scaling_skips_may_leave_the_search_unfinished():
    scaling = tf_keras.mixed_precision.LossScaleOptimizer(
        optimizers.Adam(), initial_scale=np.inf
    )
    pruned = tiny.compiled(pruned_model(), scaling)
    with pytest.warns(UserWarning, match="at update 0 of 0 to .*loss scaling skips"):
        tiny.fit(pruned, 2, [smart_tf.SmartPruningCallback(search_epochs=2)])


def test_a_subclassed_model_is_pruned_and_stripped_between_fits():
    """Graphs that were traced before must not outlive the change of layers."""
    model = tiny.compiled(tiny.subclassed())
    tiny.fit(model, 1)
    x = tiny.inputs_for(model)
    model.predict(x, verbose=0)
    pruned = smart_tf.prune(model, 0.5, "4x4")
    tiny.fit(pruned, 2, [smart_tf.SmartPruningCallback(search_epochs=1)])
    assert smart_tf.report(pruned).phase == "frozen"
    predicted = pruned.predict(x, verbose=0)
    final = smart_tf.strip_pruning(pruned)
    np.testing.assert_allclose(final.predict(x, verbose=0), predicted, atol=1e-6)
    zeros = tiny.sparsity(final)
    tiny.fit(final, 1)
    assert zeros > 0.45
    assert tiny.sparsity(final) < zeros  # A plain model trains plainly.


def test_what_is_seen_of_the_search(tmp_path, capsys):
    """In the logs, in files, in TensorBoard, in a history, and on the screen."""
    pruned, before, after = pruned_model(), *(smart_tf.MaskHistory() for _ in range(2))
    callback = smart_tf.SmartPruningCallback(1, 1, log_dir=tmp_path / "board")
    file = tf_keras.callbacks.CSVLogger(tmp_path / "log.csv")
    callbacks = [before, callback, after, file]
    logs = tiny.fit(tiny.compiled(pruned), 4, callbacks, verbose=2).history
    rows = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    for key in ("temperature", "sparsity", "soft_sparsity", "mask_gap", "mask_flips"):
        np.testing.assert_allclose(rows[key], logs[key])
    assert logs["soft_sparsity"] == [0.0, *3 * [logs["sparsity"][-1]]]
    assert logs["mask_gap"] == [logs["sparsity"][0], 0.0, 0.0, 0.0]
    assert logs["mask_flips"][2:] == [0.0, 0.0]
    printed = capsys.readouterr().out
    assert printed.count("masks frozen after update 8") == 1
    assert printed.count("mask_gap:") == 4
    assert list((tmp_path / "board" / "pruning").iterdir())
    for history in (before, after):
        assert history.updates == [4, 8, 12, 16]
        assert history.phases == ["dense", "frozen", "frozen", "frozen"]
        for name, kernel in tiny.kernels(pruned).items():
            blocks = tiny.zero_fraction_of_blocks(kernel, 4, 4) < 1
            mask = history.masks[f"{name}/kernel"][-1]
            np.testing.assert_array_equal(mask[:, :, 0, 0], blocks.T)


def test_a_fit_without_the_callback_does_not_keep_the_next_one_from_searching():
    """The first `fit` traces a graph without a search, and with another optimizer."""
    pruned = tiny.compiled(pruned_model(), optimizers.Adam(1e-2))
    with pytest.warns(UserWarning, match="nothing drives the pruning"):
        tiny.fit(pruned, 1, [])
    logs = tiny.fit(pruned, 4, [smart_tf.SmartPruningCallback(search_epochs=3)]).history
    assert logs["temperature"][0] < 1
    assert logs["temperature"][-1] == pytest.approx(0.01)
    assert logs["soft_sparsity"][0] == pytest.approx(0.5, abs=0.02)


def test_a_model_can_be_pruned_again_with_less_sparsity():
    model = tiny.sequential()
    start = model.get_weights()
    for sparsity in (0.9, 0.3):
        model.set_weights(start)
        pruned = tiny.compiled(smart_tf.prune(model, sparsity, "4x4"))
        tiny.fit(pruned, 4, [smart_tf.SmartPruningCallback(search_epochs=3)])
        assert tiny.sparsity(pruned) == pytest.approx(sparsity, abs=0.03)
