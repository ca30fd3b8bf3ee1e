"""`shrink` on random graphs."""

import keras
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers

import smart_tf
from smart_tf.channels import find_groups
from tests.architectures import (
    cut_half,
    inputs_for,
    outputs_of,
    randomise,
    zero,
)

POINTWISE = [
    lambda x: layers.ReLU()(x),
    lambda x: layers.Activation("sigmoid")(x),
    lambda x: layers.LeakyReLU()(x),
    lambda x: keras.ops.tanh(x) * 0.5,
    lambda x: x + 1.0,
    lambda x: layers.BatchNormalization()(x),
    lambda x: layers.BatchNormalization(scale=False)(x),
    lambda x: layers.BatchNormalization(center=False)(x),
    lambda x: layers.GroupNormalization(-1)(x),
    lambda x: layers.GroupNormalization(2, scale=False, center=False)(x),
    lambda x: layers.LayerNormalization()(x),
    lambda x: layers.Softmax()(x),
    lambda x: layers.PReLU(shared_axes=[1, 2])(x),
    lambda x: layers.Dropout(0.3)(x),
    lambda x: layers.MaxPooling2D(2, 1, padding="same")(x),
    lambda x: layers.AveragePooling2D(3, 1, padding="same")(x),
    lambda x: layers.Cropping2D(1)(layers.ZeroPadding2D(1)(x)),
    lambda x: layers.Permute((2, 1, 3))(x),
    lambda x: layers.DepthwiseConv2D(3, padding="same")(x),
    lambda x: layers.DepthwiseConv2D(1, use_bias=False)(x),
]
"""They keep the shape of a `(batch, 4, 4, channels)` tensor."""

MAKING = [
    lambda x, n: layers.Conv2D(n, 1)(x),
    lambda x, n: layers.Conv2D(n, 3, padding="same", use_bias=False)(x),
    lambda x, n: layers.Conv2D(n, 3, padding="same", activation="relu")(x),
    lambda x, n: layers.Conv2D(n, 1, activation="sigmoid")(x),
    lambda x, n: layers.SeparableConv2D(n, 3, padding="same", depth_multiplier=2)(x),
    lambda x, n: layers.Conv2DTranspose(n, 3, padding="same")(x),
    lambda x, n: layers.Dense(n, activation="elu")(x),
]
"""They make `n` channels."""

JOINING = [
    lambda x, y: layers.Add()([x, y]),
    lambda x, y: x - y,
    lambda x, y: layers.Multiply()([x, y]),
    lambda x, y: layers.Maximum()([x, y]),
    lambda x, y: layers.Average()([x, y]),
    lambda x, y: x * layers.GlobalAveragePooling2D(keepdims=True)(y),
]
"""Of two tensors with as many channels."""

ENDING = [
    lambda x: layers.Flatten()(x),
    lambda x: layers.GlobalAveragePooling2D()(x),
    lambda x: layers.GlobalMaxPooling2D()(x),
    lambda x: layers.LSTM(3)(layers.Reshape((16, x.shape[-1]))(x)),
]


KINDS = ("making", "pointwise", "pointwise", "joining", "stacking")


@st.composite
def models(draw):
    """A model of up to eight layers, each on any of the tensors so far."""
    image = keras.Input((4, 4, 2))
    tensors = [layers.Conv2D(4, 1)(image)]
    for _ in range(draw(st.integers(2, 8))):
        x = draw(st.sampled_from(tensors))
        alike = [y for y in tensors if y.shape == x.shape and y is not x]
        kind = draw(
            st.sampled_from("making pointwise pointwise joining stacking".split())
        )
        if kind == "making":
            x = draw(st.sampled_from(MAKING))(x, draw(st.sampled_from([4, 4, 6])))
        elif kind == "joining" and alike:
            x = draw(st.sampled_from(JOINING))(x, draw(st.sampled_from(alike)))
        elif kind == "stacking" and len(tensors) > 1 and x.shape[-1] < 12:
            x = layers.Concatenate()([x, tensors[-1]])
        else:
            x = draw(st.sampled_from(POINTWISE))(x)
        tensors.append(x)
    x = draw(st.sampled_from(ENDING))(tensors[-1])
    outputs = [layers.Dense(3)(x)]
    if draw(st.booleans()):
        outputs.append(draw(st.sampled_from(tensors)))
    return randomise(keras.Model(image, outputs), draw(st.integers(0, 99)))


def assert_close(one, other):
    """Random graphs may blow up or die out; the difference is what counts."""
    x = inputs_for(one)
    for a, b in zip(outputs_of(one, x), outputs_of(other, x), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * max(np.abs(a).max(), 1e-3)


quick = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@quick
@given(models(), st.integers(0, 99))
def test_half_of_every_group_goes_without_a_difference(model, seed):
    groups = find_groups(model)
    costs = groups.costs("params")
    assert costs.total() == model.count_params()
    kept = cut_half(model, groups, seed)
    small = smart_tf.shrink(model)
    assert_close(model, small)
    # Activations may kill further channels, never revive one.
    assert small.count_params() <= costs.total(kept)


@quick
@given(models(), st.integers(0, 99), st.booleans())
def test_zeros_anywhere_make_no_difference(model, seed, biases):
    """Masks that know nothing of groups, with or without biases."""
    rng = np.random.default_rng(seed)
    zeros = {}
    for layer in model.layers:
        width = layer.weights[-1].shape[-1] if layer.weights else 0
        if width and not isinstance(layer, (layers.LSTM, layers.DepthwiseConv2D)):
            zeros[layer.name] = np.flatnonzero(rng.random(width) < 0.5).tolist()
    zero(model, zeros, biases)
    small = smart_tf.shrink(model)
    assert_close(model, small)
    assert small.count_params() <= model.count_params()
