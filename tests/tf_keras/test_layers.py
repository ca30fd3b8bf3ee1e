"""Single layers of every kind reach their sparsity, in blocks of their own shape."""

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
import tf_keras
from tf_keras import layers

import smart_tf
from tests.tf_keras import tiny

# The layers of tfmot's own tests and those that they leave out: layer, input shape.
KINDS = {
    "Conv1D": lambda: (layers.Conv1D(4, 2), (3, 6)),
    "Conv2D": lambda: (layers.Conv2D(4, (2, 2)), (4, 6, 1)),
    "Conv3D": lambda: (layers.Conv3D(2, (3, 3, 3)), (5, 7, 6, 3)),
    "Conv1DTranspose": lambda: (layers.Conv1DTranspose(2, 3), (7, 3)),
    "Conv2DTranspose": lambda: (layers.Conv2DTranspose(2, (3, 3)), (7, 6, 3)),
    "Conv3DTranspose": lambda: (layers.Conv3DTranspose(2, (3, 3, 3)), (5, 7, 6, 3)),
    "SeparableConv1D": lambda: (layers.SeparableConv1D(4, 3), (3, 6)),
    "SeparableConv2D": lambda: (layers.SeparableConv2D(4, (2, 2)), (4, 6, 1)),
    "DepthwiseConv2D": lambda: (layers.DepthwiseConv2D(3), (5, 5, 4)),
    "Dense": lambda: (layers.Dense(4), (6,)),
    "EinsumDense": lambda: (layers.EinsumDense("ab,bcd->acd", (2, 4)), (6,)),
    "LocallyConnected1D": lambda: (layers.LocallyConnected1D(4, 2), (3, 6)),
    "LocallyConnected2D": lambda: (layers.LocallyConnected2D(4, (2, 2)), (4, 6, 1)),
    "SimpleRNN": lambda: (layers.SimpleRNN(10), (3, 4)),
    "GRU": lambda: (layers.GRU(10), (3, 4)),
    "LSTM": lambda: (layers.LSTM(10), (3, 4)),
    "RNN of cells": lambda: (
        layers.RNN([layers.LSTMCell(6), layers.GRUCell(6), layers.SimpleRNNCell(6)]),
        (3, 4),
    ),
    "Bidirectional": lambda: (layers.Bidirectional(layers.LSTM(4)), (3, 4)),
    "TimeDistributed": lambda: (layers.TimeDistributed(layers.Dense(4)), (3, 6)),
}


SLOW = ["Conv1DTranspose", "Conv3DTranspose", "GRU", "LSTM", "RNN of cells"]
SLOW += ["Bidirectional", "TimeDistributed"]


def trained(layer, input_shape, structure, sparsity=0.5, tokens=None):
    """A model of one layer, driven by tfmot's callback for two epochs of one batch."""
    wrapped = smart_tf.prune(
        layer, sparsity, structure, schedule=smart_tf.TemperatureSchedule(0, 2)
    )
    model = tf_keras.Sequential([tf_keras.Input(input_shape), wrapped])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, *input_shape)) if tokens is None else tokens
    y = rng.normal(size=(8, *model.output_shape[1:]))
    model.compile("sgd", "mse")
    assert all((k != 0).all() for k in masked_kernels(model))
    model.fit(
        x, y, epochs=2, verbose=0, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()]
    )
    final = tfmot.sparsity.keras.strip_pruning(model)
    np.testing.assert_allclose(final(x), model(x), atol=1e-6)
    return model


def masked_kernels(model):
    (wrapper,) = tiny.wrappers(model)
    return [m.weight.variable.numpy() for m in wrapper.weight_masks]


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.slow if k in SLOW else ()) for k in KINDS],
)
def test_layer_reaches_its_sparsity(kind):
    layer, input_shape = KINDS[kind]()
    model = trained(layer, input_shape, "unstructured")
    kernels = masked_kernels(model)
    zeros, size = sum((k == 0).sum() for k in kernels), sum(k.size for k in kernels)
    assert zeros == -(-size // 2)  # Half of them, rounded up.


def test_embedding_reaches_its_sparsity():
    tokens = np.random.default_rng(0).integers(10, size=(8, 5))
    model = trained(layers.Embedding(10, 3), (5,), "unstructured", tokens=tokens)
    assert (masked_kernels(model)[0] == 0).sum() == 15


def test_attention_reaches_its_sparsity():
    x = tf_keras.Input((5, 8))
    y = layers.MultiHeadAttention(2, 4, name="attention")(x, x, use_causal_mask=True)
    model = tf_keras.Model(x, y)
    data = tiny.inputs_for(model)
    before = model(data)
    pruned = smart_tf.prune(model, 0.5, "4x4")
    np.testing.assert_array_equal(pruned(data), before)
    pruned.compile("sgd", "mse")
    pruned.fit(
        data, data, epochs=2, verbose=0, callbacks=[smart_tf.SmartPruningCallback()]
    )
    (wrapper,) = tiny.wrappers(pruned)
    kernels = masked_kernels(pruned)
    assert len(kernels) == len(wrapper.weight_masks) == 4
    zeros = sum((k == 0).sum() for k in kernels)
    assert zeros == sum(k.size for k in kernels) / 2


def groups_of_inputs(kernel, of):
    """Rows of `of` neighbours along the input axis, of a Dense or Conv2D kernel."""
    return np.swapaxes(kernel, -1, -2).reshape(-1, of)


@pytest.mark.parametrize(
    "layer,input_shape,keep,of",
    [
        (lambda: layers.Dense(16), (8,), 2, 4),
        (lambda: layers.Conv2D(16, (5, 7)), (8, 8, 8), 2, 4),
        (lambda: layers.Dense(16), (8,), 1, 8),
    ],
    ids=["Dense 2:4", "Conv2D 2:4", "Dense 1:8"],
)
def test_n_of_m(layer, input_shape, keep, of):
    model = trained(layer(), input_shape, f"{keep}:{of}", sparsity=None)
    groups = groups_of_inputs(masked_kernels(model)[0], of)
    np.testing.assert_array_equal((groups != 0).sum(axis=1), keep)


def test_n_of_m_where_the_inputs_do_not_divide():
    """tfmot falls back to unstructured pruning here."""
    model = trained(layers.Dense(6), (6,), "2:4", sparsity=None)
    (kernel,) = masked_kernels(model)
    np.testing.assert_array_equal((kernel[:4] != 0).sum(axis=0), 2)
    np.testing.assert_array_equal((kernel[4:] != 0).sum(axis=0), 1)


def test_n_of_m_keeps_the_largest_of_every_group():
    model = tf_keras.Sequential([tf_keras.Input((8,)), layers.Dense(16)])
    kernel = model.layers[0].kernel.numpy()
    final = smart_tf.strip_pruning(smart_tf.prune(model, structure="2:4"))
    before = groups_of_inputs(kernel, 4)
    order = np.argsort(-np.abs(before), axis=1)
    wanted = before.copy()
    np.put_along_axis(wanted, order[:, 2:], 0, axis=1)
    np.testing.assert_array_equal(groups_of_inputs(final.layers[0].kernel, 4), wanted)


@pytest.mark.parametrize("structure", ["2x3", "4x2x1x3", "channel"])
def test_blocks_of_a_convolution(structure):
    model = trained(layers.Conv2D(8, 3), (6, 6, 4), structure)
    (kernel,) = masked_kernels(model)
    assert (kernel == 0).mean() == pytest.approx(0.5, abs=0.13)
    if structure == "channel":
        blocks = (kernel == 0).mean(axis=(0, 1, 2))
    else:
        (wrapper,) = tiny.wrappers(model)
        costs = wrapper.weight_masks[0].costs
        assert costs.sum() == kernel.size
        out, into, *window = map(int, structure.split("x"))
        width = window[1] if window else 1
        pad = (0, 0), (0, 0), (0, -4 % into), (0, -8 % out)
        padded = np.pad((kernel == 0).astype(float), pad, constant_values=np.nan)
        view = padded.reshape(3, 3 // width, width, -(-4 // into), into, -1, out)
        blocks = np.nanmean(view, axis=(2, 4, 6))
    assert set(np.unique(blocks)) == {0.0, 1.0}  # All of a block goes, or nothing.


# ---- Layers in layers and models


def test_layers_that_rewrite_their_kernel_in_each_call_are_left_alone():
    normalised = layers.SpectralNormalization(layers.Dense(8), name="normalised")
    model = tf_keras.Sequential([tf_keras.Input((8,)), normalised, layers.Dense(8)])
    pruned = smart_tf.prune(model, 0.5, "4x4")
    reason = {"normalised": "rewrites its kernel in every call"}
    assert smart_tf.report(pruned).skipped == reason
    assert len(masked_kernels(pruned)) == 1


class Holder(layers.Layer):
    """A wrapper of one's own in a layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        cls = smart_tf.flavours.of(self).PrunableLayer
        self.wrapper = cls(layers.Dense(8), "4x4", 0.5, "magnitude")

    def call(self, x):
        return self.wrapper(x)


def test_wrappers_in_layers_are_stripped(tmp_path):
    cls = smart_tf.flavours.of(layers.ReLU()).PrunableLayer
    inner = layers.Dense(8)
    container = layers.TimeDistributed(cls(inner, "4x4", 0.5, "magnitude"))
    model = tf_keras.Sequential([tf_keras.Input((3, 8)), container, Holder()])
    stripped = smart_tf.strip_pruning(model)
    assert not smart_tf.flavours.wrappers(stripped)
    assert container.layer is inner
    assert smart_tf.report(stripped).sparsity == 0.5
    assert len(stripped.weights) == 4
    stripped.save_weights(tmp_path / "x.weights.h5")
    stripped.load_weights(tmp_path / "x.weights.h5")


@pytest.mark.parametrize(
    "filters,chosen",
    [("^encoder", {"first", "encoder_head"}), ("encoder/", {"first"})],
)
def test_filters_are_searched_in_the_names_of_nested_models(filters, chosen):
    encoder = tf_keras.Sequential(
        [tf_keras.Input((8,)), layers.Dense(8, name="first")], name="encoder"
    )
    x = tf_keras.Input((8,))
    y = layers.Dense(8, name="encoder_head")(encoder(x))
    model = tf_keras.Model(x, layers.Dense(8, name="last")(y))
    pruned = smart_tf.prune(model, 0.5, "4x4", filters=filters)
    assert {w.layer.name for w in smart_tf.flavours.wrappers(pruned)} == chosen
