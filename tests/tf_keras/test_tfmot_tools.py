"""tfmot's own tools on our wrapper."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_wrapper
from tf_keras import layers

import smart_tf
from tests.tf_keras import tiny

sparsity = tfmot.sparsity.keras


def pruned_with_schedule(end_step=4, begin_step=0, **kwargs):
    schedule = smart_tf.TemperatureSchedule(begin_step, end_step)
    settings = {"sparsity": 0.5, "structure": "4x4", **kwargs}
    return smart_tf.prune(tiny.sequential(), schedule=schedule, **settings)


@pytest.fixture(scope="module")
def frozen():
    """A model that `UpdatePruningStep` alone has taken through its schedule."""
    model = tiny.compiled(pruned_with_schedule(end_step=4))
    tiny.fit(model, 2, [sparsity.UpdatePruningStep()])
    return model


def test_our_schedule_is_a_pruning_schedule():
    schedule = smart_tf.TemperatureSchedule(2, 10)
    assert isinstance(schedule, sparsity.PruningSchedule)
    assert isinstance(schedule(tf.constant(5, tf.int64))[0], tf.Tensor)
    searching = [bool(schedule(step)[0]) for step in (0, 1, 2, 10, 11)]
    assert searching == [False, False, True, True, False]
    # tfmot's own checks of the arguments that every schedule has.
    sparsity.PruningSchedule._validate_step(
        schedule, schedule.begin_step, schedule.end_step, 1, allow_negative_1=False
    )
    nested = schedule.get_config()
    restored = tf_keras.utils.legacy.deserialize_keras_object(
        nested, custom_objects={"TemperatureSchedule": smart_tf.TemperatureSchedule}
    )
    assert restored == schedule
    assert smart_tf.TemperatureSchedule.from_config(nested) == schedule


def test_our_wrapper_is_tfmots_wrapper():
    pruned = pruned_with_schedule()
    found = pruning_wrapper.collect_prunable_layers(pruned)
    assert found == tiny.wrappers(pruned)
    assert all(isinstance(w, pruning_wrapper.PruneLowMagnitude) for w in found)
    assert [w.pruning_schedule.end_step for w in found] == [4, 4, 4]


def test_update_pruning_step_alone_drives_and_freezes(frozen):
    assert all(int(w.pruning_step) == 8 for w in tiny.wrappers(frozen))
    assert smart_tf.report(frozen).phase == "frozen"
    assert tiny.sparsity(frozen) == pytest.approx(0.5, abs=16 / 832)


def test_without_its_callback_nothing_is_pruned_and_one_warning_says_so():
    pruned = tiny.compiled(pruned_with_schedule())
    with pytest.warns(UserWarning, match="nothing drives the pruning") as caught:
        tiny.fit(pruned, 2)
    ours = [w for w in caught if "nothing drives" in str(w.message)]
    assert len(ours) == 1
    assert tiny.sparsity(pruned) == 0
    assert smart_tf.report(pruned).phase == "dense"


def test_masks_stay_on_between_the_schedules_end_and_the_epochs_end():
    # 4 updates an epoch, and a schedule that is over after 2 of them.
    pruned = tiny.compiled(pruned_with_schedule(end_step=2))
    phases = []
    record = tf_keras.callbacks.LambdaCallback(
        on_batch_end=lambda batch, logs: phases.append(smart_tf.report(pruned).phase)
    )
    tiny.fit(pruned, 2, [record, sparsity.UpdatePruningStep()])
    assert phases == ["searching"] * 4 + ["frozen"] * 4


def test_a_schedule_that_begins_late_trains_densely_before():
    pruned = tiny.compiled(pruned_with_schedule(end_step=8, begin_step=4))
    update = sparsity.UpdatePruningStep()
    tiny.fit(pruned, 1, [update])
    assert smart_tf.report(pruned).phase == "dense"
    tiny.fit(pruned, 1, [update])
    assert smart_tf.report(pruned).phase == "frozen"


def test_strip_pruning(frozen):
    final = sparsity.strip_pruning(frozen)
    assert type(final) is tf_keras.Sequential
    assert [layer.name for layer in final.layers] == ["first", "second", "last"]
    assert [w.name for w in final.weights] == [
        w.name for w in tiny.sequential().weights
    ]
    x = tiny.inputs_for(final)
    np.testing.assert_array_equal(final(x), frozen(x))
    assert tiny.sparsity(final) == pytest.approx(0.5, abs=16 / 832)


def test_prune_scope_loads_our_models(frozen, tmp_path):
    x = tiny.inputs_for(frozen)
    for name in ("model.keras", "model.h5"):
        frozen.save(tmp_path / name)
        with sparsity.prune_scope():
            loaded = tf_keras.models.load_model(tmp_path / name)
        np.testing.assert_array_equal(loaded(x), frozen(x))


def test_pruning_summaries_write_the_sparsity_of_every_mask(tmp_path):
    pruned = tiny.compiled(pruned_with_schedule())
    callbacks = [
        sparsity.UpdatePruningStep(),
        sparsity.PruningSummaries(log_dir=str(tmp_path)),
    ]
    tiny.fit(pruned, 3, callbacks)
    logged = {}
    for file in (tmp_path / "metrics").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor))
                logged.setdefault(value.tag, {})[event.step] = number
    tags = [tag for tag in logged if tag.endswith("/sparsity")]
    assert len(tags) == 3
    for wrapper in tiny.wrappers(pruned):
        (tag,) = [t for t in tags if t.startswith(f"{wrapper.name}/")]
        wanted = 1 - wrapper.weight_masks[0].mask.numpy().mean()
        assert logged[tag][0] == 0  # As the first epoch begins.
        assert logged[tag][8] == pytest.approx(wanted)  # As the third one does.
    assert any(logged[tag][8] > 0 for tag in tags)


def test_pruning_policy_is_a_filter():
    class WideLayers(sparsity.PruningPolicy):
        def allow_pruning(self, layer):
            return getattr(layer, "units", 0) > 8

        def ensure_model_supports_pruning(self, model):
            if not model.built:
                raise ValueError("not built")

    pruned = smart_tf.prune(tiny.sequential(), 0.5, "4x4", filters=WideLayers())
    assert [w.layer.name for w in tiny.wrappers(pruned)] == ["first", "second"]
    # tfmot's own policy, with its own opinion on the model.
    policy = sparsity.PruneForLatencyOnXNNPack()
    with pytest.raises(ValueError, match="Could not find .Conv2D 3x3"):
        smart_tf.prune(tiny.sequential(), 0.5, "4x4", filters=policy)


def test_prune_preserving_quantization_aware_training_keeps_the_zeros(frozen):
    final = sparsity.strip_pruning(frozen)
    zeros = {name: kernel == 0 for name, kernel in tiny.kernels(final).items()}
    assert all(z.any() for z in zeros.values() if z.size > 64)
    annotated = tfmot.quantization.keras.quantize_annotate_model(final)
    quantized = tfmot.quantization.keras.quantize_apply(
        annotated, tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    )
    tiny.fit(tiny.compiled(quantized), 2)
    trained = {
        v.name.split("/")[0]: v.numpy()
        for v in quantized.trainable_variables
        if v.name.endswith("kernel:0")
    }
    assert set(trained) == set(zeros)
    for name, mask in zeros.items():
        np.testing.assert_array_equal(trained[name] == 0, mask)


@pytest.mark.slow
def test_stop_and_restart_goes_on_as_one_ranking(tmp_path):
    """With `UpdatePruningStep` alone, which knows nothing of rankings."""
    straight = tiny.compiled(_seeded(pruned_with_schedule(end_step=8)))
    tiny.fit(straight, 3, [sparsity.UpdatePruningStep()])

    first = tiny.compiled(_seeded(pruned_with_schedule(end_step=8)))
    tiny.fit(first, 1, [sparsity.UpdatePruningStep()])
    first.save(tmp_path / "model.keras")
    second = tf_keras.models.load_model(tmp_path / "model.keras")
    assert len({id(w.ranking) for w in tiny.wrappers(second)}) == 1
    tiny.fit(second, 2, [sparsity.UpdatePruningStep()])
    for a, b in zip(straight.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert smart_tf.report(second).phase == "frozen"


def test_custom_loop_with_tfmots_callback():
    pruned = pruned_with_schedule(end_step=3)
    optimizer = tf_keras.optimizers.SGD(0.1)
    pruned.optimizer = optimizer
    loss_of = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, y = tiny.inputs_for(pruned), tiny.targets_for(pruned)
    update = sparsity.UpdatePruningStep()
    update.set_model(pruned)
    update.on_train_begin()
    for _ in range(2):
        for begin in range(0, 64, 32):
            update.on_train_batch_begin(batch=-1)
            with tf.GradientTape() as tape:
                logits = pruned(x[begin : begin + 32], training=True)
                loss = loss_of(y[begin : begin + 32], logits)
            weights = pruned.trainable_variables
            optimizer.apply_gradients(
                zip(tape.gradient(loss, weights), weights, strict=True)
            )
        update.on_epoch_end(batch=-1)
    assert smart_tf.report(pruned).phase == "frozen"
    assert tiny.sparsity(pruned) == pytest.approx(0.5, abs=16 / 832)


def test_tfmots_prune_low_magnitude_and_ours_live_in_one_model():
    theirs = sparsity.prune_low_magnitude(
        layers.Dense(8, input_shape=(8,)), sparsity.ConstantSparsity(0.5, 0, -1, 1)
    )
    ours = smart_tf.prune(
        layers.Dense(8), 0.5, "4x4", schedule=smart_tf.TemperatureSchedule(0, 4)
    )
    model = tf_keras.Sequential([theirs, ours, layers.Dense(4)])
    tiny.fit(tiny.compiled(model), 2, [sparsity.UpdatePruningStep()])
    final = sparsity.strip_pruning(model)
    fractions = [(layer.kernel.numpy() == 0).mean() for layer in final.layers]
    assert fractions == [0.5, 0.5, 0]


def _seeded(model):
    for index, wrapper in enumerate(tiny.wrappers(model)):
        kernel = wrapper.layer.kernel
        values = np.random.default_rng(index).normal(size=kernel.shape)
        kernel.assign(values / np.sqrt(kernel.shape[0]))
    tiny.wrappers(model)[0].ranking.initialise_logits()
    return model
