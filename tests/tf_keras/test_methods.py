"""The methods on tf_keras models, and magnitude pruning against tfmot's own masks."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

import smart_tf
from smart_tf import methods
from tests.tf_keras.tiny import (
    compiled,
    convolutional,
    fit,
    inputs_for,
    kernels,
    sequential,
    sparsity,
    wrappers,
)

SHORT = {
    "gradual": methods.Magnitude(updates=4),
    "pdp": methods.PDP(temperature=1e-2, updates=4),
    "pas": methods.PaS(strength=1e-2),
    "awg": methods.AWG(steps=2, calibration=0.5),
    "acdc": methods.ACDC(steps=2),
}


def tfmot_mask(kernel, sparsity, block_size, pooling):
    """The mask that tfmot finds for a kernel."""
    schedule = tfmot.sparsity.keras.ConstantSparsity(sparsity, 0, frequency=1)
    pruning = pruning_impl.Pruning(
        pruning_vars=[],
        training_step_fn=lambda: 1,
        pruning_schedule=schedule,
        block_size=block_size,
        block_pooling_type=pooling,
    )
    return pruning._maybe_update_block_mask(tf.constant(kernel))[1].numpy()


@pytest.mark.parametrize(
    ("structure", "block_size", "reduction", "pooling"),
    [
        ("unstructured", [1, 1], "mean", "AVG"),
        ("2x4", [4, 2], "mean", "AVG"),  # outputs by inputs, and the other way round
        ("2x4", [4, 2], "max", "MAX"),
    ],
)
def test_masks_of_every_layer_are_tfmots(structure, block_size, reduction, pooling):
    model = sequential()
    before = kernels(model)
    method = methods.Magnitude(gradual=False, per_layer=True, reduction=reduction)
    pruned = smart_tf.prune(model, 0.75, structure, method)
    smart_tf.Pruner(pruned, smart_tf.TemperatureSchedule(0, 4)).start()
    for name, kernel in kernels(pruned).items():
        mask = tfmot_mask(before[name], 0.75, block_size, pooling)
        np.testing.assert_array_equal(kernel, before[name] * mask)
        assert mask.mean() == 0.25


def test_masks_over_all_layers_are_tfmots_of_all_weights_in_one_row():
    model = sequential()
    before = kernels(model)
    row = np.concatenate([k.ravel() for k in before.values()])
    mask = tfmot_mask(row[:, None], 0.75, [1, 1], "AVG")
    method = methods.Magnitude(gradual=False)
    pruned = smart_tf.prune(model, 0.75, "unstructured", method)
    smart_tf.Pruner(pruned, smart_tf.TemperatureSchedule(0, 4)).start()
    after = np.concatenate([k.ravel() for k in kernels(pruned).values()])
    np.testing.assert_array_equal(after, row * mask[:, 0])


@pytest.mark.parametrize(
    "name",
    [
        *("pas", "awg"),
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("gradual", "pdp", "acdc")),
    ],
)
def test_a_run_reaches_its_sparsity_and_goes_on_from_a_file(name, tmp_path):
    path = str(tmp_path / "model.keras")
    schedule = smart_tf.TemperatureSchedule(0, 12)

    class SaveAt(tf_keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.model.save(path)

    def run(model, *callbacks, epochs):
        pruning = smart_tf.SmartPruningCallback(schedule=schedule)
        fit(model, callbacks=[*callbacks, pruning], **epochs)
        return [w.numpy() for w in model.weights]

    model = compiled(smart_tf.prune(sequential(), 0.75, "4x4", SHORT[name]))
    one = run(model, SaveAt(), epochs={"epochs": 4})
    assert sparsity(model) == 0.75
    loaded = tf_keras.models.load_model(path)
    assert wrappers(loaded)[0].method == SHORT[name]
    two = run(loaded, epochs={"initial_epoch": 2, "epochs": 4})
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first, second)
    stripped = tfmot.sparsity.keras.strip_pruning(model)
    assert sparsity(stripped) == 0.75


def test_tfmots_own_callback_drives_the_milestones():
    schedule = smart_tf.TemperatureSchedule(0, 12)
    model = smart_tf.prune(
        sequential(), 0.75, "4x4", methods.Magnitude(updates=3), schedule=schedule
    )
    seen = []

    class Watch(tf_keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            masks = [m.mask.numpy() for k in wrappers(model) for m in k.weight_masks]
            seen.append(int(sum(m.sum() for m in masks)))

    update = tfmot.sparsity.keras.UpdatePruningStep()
    fit(compiled(model), epochs=4, callbacks=[update, Watch()])
    # 52 blocks, of which 1 - 0.75 * (1 - (2/3) ** 3) stay, then (1/3), and a quarter.
    assert seen == [24, 14, 13, 13]
    assert sparsity(model) == 0.75


def test_a_penalty_is_a_loss_beside_the_regularizers():
    model = smart_tf.prune(convolutional(), 0.5, "1x1", methods.PaS(strength=0.1))
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 4))
    pruner.start()
    rng = np.random.default_rng(0)
    kept, total = 0, 0
    for mask in pruner.ranking.masks:
        scores = rng.normal(size=mask.costs.shape)
        mask.logits.assign(scores)
        kept, total = kept + (scores > 0.5).sum(), total + scores.size
    model(inputs_for(model, 4), training=True)
    regularized = (kernels(model)["conv_1"] ** 2).sum()
    expected = 0.01 * regularized + 0.1 * total * (kept / total - 0.5) ** 2
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-4)


def test_a_penalty_has_the_dtype_of_a_float64_models_loss():
    tf_keras.backend.set_floatx("float64")
    try:
        model = sequential()
        pruned = smart_tf.prune(model, 0.5, "4x4", "pas")
        smart_tf.Pruner(pruned, smart_tf.TemperatureSchedule(0, 4)).start()
        outputs = pruned(inputs_for(model), training=True)
        assert [loss.dtype for loss in pruned.losses] == [outputs.dtype] == ["float64"]
    finally:
        tf_keras.backend.set_floatx("float32")
