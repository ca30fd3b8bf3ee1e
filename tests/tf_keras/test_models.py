"""What `prune` and `strip_pruning` do to tf_keras models of every kind."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

import smart_tf
from tests.tf_keras import tiny


@pytest.mark.parametrize("build", tiny.BUILDERS)
def test_prune_and_strip_give_the_original_back(build):
    model = build()
    x = tiny.inputs_for(model)
    before, values, names = model(x), tiny.kernels(model), _names(model.weights)
    config = None if build is tiny.subclassed else model.get_config()

    pruned = smart_tf.prune(model, 0.5, "4x4")
    assert type(pruned) is type(model)
    assert tiny.wrappers(pruned)
    for a, b in zip(_list(before), _list(pruned(x)), strict=True):
        np.testing.assert_array_equal(a, b)
    for name, kernel in tiny.kernels(pruned).items():
        np.testing.assert_array_equal(kernel, values[name])

    final = smart_tf.strip_pruning(pruned)
    assert type(final) is type(model)
    assert not tiny.wrappers(final)
    assert _names(final.weights) == names
    if config is not None:
        assert final.get_config() == config


class TiedHead(layers.Layer):
    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def call(self, x):
        return tf.matmul(x, self.embedding.embeddings, transpose_b=True)


def test_a_kernel_that_two_layers_hold_is_pruned_once():
    limit = tf_keras.constraints.MaxNorm(0.5)
    embedding = layers.Embedding(24, 8, embeddings_constraint=limit)
    tokens = tf_keras.Input((7,), dtype="int32")
    outputs = TiedHead(embedding)(layers.Dense(8)(embedding(tokens)))
    pruned = smart_tf.prune(tf_keras.Model(tokens, outputs), 0.5, "4x4")
    assert len(tiny.wrappers(pruned)) == len(smart_tf.report(pruned).kernels) == 2
    final = smart_tf.strip_pruning(pruned)
    assert smart_tf.report(final).sparsity == 0.5
    assert embedding.embeddings.constraint is limit


@pytest.mark.parametrize("build", tiny.BUILDERS)
def test_models_train_through_all_phases_to_the_exact_sparsity(build):
    pruned = tiny.compiled(smart_tf.prune(build(), 0.5, "4x4"))
    history = tiny.fit(pruned, 3, [smart_tf.SmartPruningCallback(search_epochs=2)])
    assert np.isfinite(history.history["loss"]).all()
    assert all(int(layer.pruning_step) == 12 for layer in tiny.wrappers(pruned))

    report = smart_tf.report(pruned)
    assert report.phase == "frozen"
    largest = max(m.costs.max() for w in tiny.wrappers(pruned) for m in w.weight_masks)
    total = sum(k.weights for k in report.kernels)
    assert 0.5 <= report.sparsity < 0.5 + largest / total
    masked = {k.name.split("/")[-2] for k in report.kernels}
    assert tiny.sparsity(pruned, masked) == report.sparsity

    x = tiny.inputs_for(pruned)
    hard, final = pruned(x), smart_tf.strip_pruning(pruned)
    for a, b in zip(_list(hard), _list(final(x)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_report_counts_the_parameters_of_the_model_alone():
    report = smart_tf.report(smart_tf.prune(tiny.nested(), 0.5, "4x4"))
    assert report.parameters == tiny.nested().count_params()


def test_untrained_strip_is_the_hard_masked_model():
    model = tiny.sequential()
    wanted = tiny.hard_masked(list(tiny.kernels(model).values()), 0.7, 4, 4)
    reference = tiny.sequential()
    for layer, kernel, own in zip(reference.layers, wanted, model.layers, strict=True):
        layer.set_weights([kernel, own.bias.numpy()])
    final = smart_tf.strip_pruning(smart_tf.prune(model, 0.7, "4x4"))
    x = tiny.inputs_for(model)
    np.testing.assert_array_equal(final(x), reference(x))
    assert tiny.sparsity(final) == pytest.approx(0.7, abs=16 / 832)


def test_layers_that_are_not_trainable_are_left_alone():
    model = tiny.sequential()
    model.get_layer("first").trainable = False
    before = model.get_layer("first").kernel.numpy()
    pruned = tiny.compiled(smart_tf.prune(model, 0.5, "4x4"))
    assert _names(pruned.layers) == ["first", "prunable_second", "prunable_last"]
    assert smart_tf.report(pruned).skipped == {"first": "not trainable"}
    tiny.fit(pruned, 2, [smart_tf.SmartPruningCallback()])
    np.testing.assert_array_equal(pruned.get_layer("first").kernel, before)
    assert tiny.sparsity(pruned, ["second", "last"]) == pytest.approx(0.5, abs=0.03)


def test_a_wrapper_that_is_frozen_by_the_user_trains_nothing():
    pruned = smart_tf.prune(tiny.sequential(), 0.5, "4x4")
    first = pruned.layers[0]
    first.trainable = False
    assert first.trainable_weights == []
    (logits,) = [m.logits for m in first.weight_masks]
    before = first.layer.kernel.numpy(), logits.numpy()
    tiny.fit(tiny.compiled(pruned), 1, [smart_tf.SmartPruningCallback()])
    np.testing.assert_array_equal(logits, before[1])
    kernel = first.layer.kernel.numpy()
    np.testing.assert_array_equal(kernel[kernel != 0], before[0][kernel != 0])


def test_filters_choose_layers():
    def wrapped(filters):
        pruned = smart_tf.prune(tiny.sequential(), 0.5, "4x4", filters=filters)
        return [w.layer.name for w in tiny.wrappers(pruned)]

    assert wrapped("st$") == ["first", "last"]
    assert wrapped(["second"]) == ["second"]
    assert wrapped(lambda layer: layer.units > 4) == ["first", "second"]
    with pytest.raises(ValueError, match="does not have: .*'third'"):
        wrapped(["third"])


def test_wrapped_layers_keep_masking():
    def build(embedding, lstm):
        return tf_keras.Sequential([tf_keras.Input((6,)), embedding, lstm])

    model = build(layers.Embedding(10, 8, mask_zero=True), layers.LSTM(8))
    tokens = np.array([[1, 2, 3, 0, 0, 0], [4, 0, 5, 0, 0, 6]])
    before = model(tokens).numpy()
    assert not np.allclose(before, model(np.where(tokens == 0, 7, tokens)))
    pruned = smart_tf.prune(model, 0.5, "4x4", filters=lambda layer: True)
    assert len(tiny.wrappers(pruned)) == 2
    np.testing.assert_allclose(pruned(tokens), before, atol=1e-6)

    # A mask that meets a layer which does not take any ends there, as without us.
    inputs = tf_keras.Input((6,))
    x = layers.Embedding(10, 8, mask_zero=True)(inputs)
    model = tf_keras.Model(inputs, layers.Conv1D(8, 3)(x))
    before = model(tokens).numpy()
    np.testing.assert_array_equal(smart_tf.prune(model, 0.5, "4x4")(tokens), before)


def test_activity_and_kernel_regularizers_count_as_before():
    model = tf_keras.Sequential(
        [
            tf_keras.Input((8,)),
            layers.Dense(8, kernel_regularizer="l2", activity_regularizer="l1"),
        ]
    )
    x = tiny.inputs_for(model)
    model(x)
    wanted = float(sum(model.losses))
    pruned = smart_tf.prune(model, 0.5, "4x4")
    pruned(x)
    assert float(sum(pruned.losses)) == pytest.approx(wanted)
    assert wanted > 0


def test_wrapping_by_hand_and_refusals():
    Wrapper = smart_tf.flavours.of(layers.Dense(1)).PrunableLayer
    single = smart_tf.prune(layers.Dense(8, name="one"), 0.5, "4x4")
    assert isinstance(single, Wrapper)
    model = tf_keras.Sequential([tf_keras.Input((8,)), single, layers.Dense(2)])
    assert _names(smart_tf.strip_pruning(model).weights)[:2] == [
        "one/kernel:0",
        "one/bias:0",
    ]
    with pytest.raises(ValueError, match="wrapped for pruning already"):
        Wrapper(Wrapper(layers.Dense(8), "4x4", 0.5))
    with pytest.raises(TypeError, match="`layer` must be a `tf_keras"):
        Wrapper("dense", "4x4", 0.5)
    with pytest.raises(ValueError, match="must be built"):
        smart_tf.prune(tf_keras.Sequential([layers.Dense(8)]), 0.5)
    pruned = smart_tf.prune(tiny.sequential(), 0.5)
    with pytest.raises(ValueError, match="strip_pruning"):
        smart_tf.prune(pruned, 0.5)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        smart_tf.prune(tiny.sequential(), 1.0)


def test_subclassed_model_keeps_its_weights_and_restores_them(tmp_path):
    model = tiny.subclassed()
    stem = model.stem.kernel
    pruned = smart_tf.prune(model, 0.5, "4x4")
    assert pruned is model
    assert pruned.stem.layer.kernel is stem
    assert [b.layer.name for b in pruned.blocks] == ["block_0", "block_1"]
    tiny.fit(tiny.compiled(pruned), 2, [smart_tf.SmartPruningCallback()])
    x = tiny.inputs_for(pruned)
    for name in ("weights.h5", "checkpoint"):
        pruned.save_weights(tmp_path / name)
        other = smart_tf.prune(tiny.subclassed(), 0.5, "4x4")
        other.load_weights(tmp_path / name)
        np.testing.assert_array_equal(other(x), pruned(x))
        assert smart_tf.report(other).phase == "frozen"
    final = smart_tf.strip_pruning(pruned)
    assert final is model
    assert final.stem.kernel is stem
    final.save_weights(tmp_path / "plain")


def _list(value):
    return value if isinstance(value, list) else [value]


def _names(things):
    return [thing.name for thing in things]
