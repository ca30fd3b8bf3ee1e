"""`shrink` on graphs in which something is not what it looks like."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import smart_tf
from smart_tf.channels import find_groups
from tests.architectures import assert_same_outputs, inputs_for, randomise


def dense(units, **kwargs):
    return layers.Dense(units, **kwargs)


def image(*shape):
    return keras.Input(shape)


def tokens_from_channels():
    x = image(6)
    y = ops.cast(dense(8, activation="relu")(x), "int32")
    y = layers.GlobalAveragePooling1D()(layers.Embedding(200, 4)(y))
    return keras.Model(x, dense(3)(y))


def a_maximum_with_a_first_value():
    x = image(5, 6)
    return keras.Model(x, dense(3)(ops.max(dense(8)(x), axis=1, initial=0.5)))


class TalkingHeads(layers.MultiHeadAttention):
    def _compute_attention(self, *args, **kwargs):
        output, scores = super()._compute_attention(*args, **kwargs)
        return output + 0.5 * ops.roll(output, 1, axis=2), scores


def attention_that_mixes_heads():
    x = image(5, 6)
    return keras.Model(x, dense(3)(TalkingHeads(4, 3)(x, x)))


def a_nested_model_in_training():
    a = image(8)
    inner = keras.Model(a, layers.BatchNormalization()(a))
    x = image(6)
    return keras.Model(x, dense(3)(inner(dense(8)(x), training=True)))


def a_gate_by_the_last_channel():
    x = image(6)
    gated = dense(8, activation=lambda y: y * ops.sigmoid(y[..., -1:]))
    return keras.Model(x, dense(3)(gated(x)))


def nested_inputs_by_name():
    b, a = keras.Input((8,), name="b"), keras.Input((8,), name="a")
    both = [dense(4, activation="relu")(b), dense(4, activation="relu")(a)]
    inner = keras.Model([b, a], layers.Concatenate()(both))
    x = image(6)
    y, z = dense(8, name="y")(x), dense(8, name="z")(x)
    return keras.Model(x, dense(3)(inner({"b": y, "a": z})))


def embeddings_from_a_matrix():
    x = keras.Input((5,), dtype="int32")
    start = keras.initializers.Constant(np.ones((20, 8), "float32"))
    y = layers.Embedding(20, 8, embeddings_initializer=start)(x)
    return keras.Model(x, dense(3)(y))


def a_reshape_on_two_branches():
    x = image(4, 6)
    flat = layers.Reshape((32,))
    return keras.Model(
        x, dense(3)(layers.Concatenate()([flat(dense(8)(x)), flat(dense(8)(x))]))
    )


def groups_without_weights_on_two_branches():
    x = image(4, 6)
    norm = layers.GroupNormalization(4, scale=False, center=False)
    return keras.Model(
        x, dense(3)(layers.Concatenate()([norm(dense(8)(x)), norm(dense(8)(x))]))
    )


def limits_for_each_channel():
    x = image(6)
    low, high = np.linspace(-1, 0, 8), np.linspace(0.1, 1, 8)
    return keras.Model(x, dense(3)(ops.clip(dense(8)(x), low, high)))


def offsets_for_each_channel():
    x = image(6)
    shifted = layers.Rescaling(1.0, offset=[0.1 * k for k in range(8)])
    return keras.Model(x, dense(3)(shifted(dense(8)(x))))


def noise_of_a_fixed_shape():
    x = image(5, 6)
    noise = layers.Dropout(0.5, noise_shape=(None, 1, 8))
    return keras.Model(x, dense(3)(noise(dense(8)(x))))


def an_activation_with_weights_used_twice():
    act, x = layers.PReLU(), image(6)
    return keras.Model(x, dense(3)(act(dense(8)(dense(8, activation=act)(x)))))


class Standardised(layers.Dense):
    @property
    def kernel(self):
        kernel = super().kernel
        return kernel - ops.mean(kernel, axis=0)


def a_kernel_that_is_computed():
    x = image(6)
    return keras.Model(x, dense(3)(Standardised(8)(x)))


def positions_in_the_batch():
    x = image(5, 6)
    y = dense(8)(ops.reshape(dense(8)(x), (-1, 8)))
    return keras.Model(x, dense(3)(ops.reshape(y, (-1, 5, 8))))


def an_einsum_that_mixes_nothing():
    x = image(5, 6)
    return keras.Model(
        x, dense(3)(layers.EinsumDense("abc,c->abc", (5, 8))(dense(8)(x)))
    )


def constants_beside_the_channels():
    x = keras.Input((6,), batch_size=3)
    beside = np.ones((3, 2), "float32")
    return keras.Model(x, dense(3)(ops.concatenate([dense(8)(x), beside], axis=-1)))


def an_activation_that_is_a_layer():
    x = image(6)
    y = layers.Activation(layers.PReLU())(dense(8, activation=layers.PReLU())(x))
    return keras.Model(x, dense(3)(y))


BUILDERS = [
    tokens_from_channels,
    a_maximum_with_a_first_value,
    attention_that_mixes_heads,
    a_nested_model_in_training,
    a_gate_by_the_last_channel,
    nested_inputs_by_name,
    embeddings_from_a_matrix,
    a_reshape_on_two_branches,
    groups_without_weights_on_two_branches,
    limits_for_each_channel,
    offsets_for_each_channel,
    noise_of_a_fixed_shape,
    an_activation_with_weights_used_twice,
    a_kernel_that_is_computed,
    positions_in_the_batch,
    an_einsum_that_mixes_nothing,
    constants_beside_the_channels,
    an_activation_that_is_a_layer,
]


def zero_some(model, biases):
    """Columns of each kernel that makes channels, other ones in every layer.

    The last layer, which makes the outputs, is spared.
    """
    rng = np.random.default_rng(3)
    parts = [layer for layer in model._flatten_layers() if hasattr(layer, "units")]
    parts += [
        layer for layer in model._flatten_layers() if hasattr(layer, "embeddings")
    ]
    for layer in parts:
        for variable in layer.trainable_variables:
            if variable.shape[-1] == 3 or (len(variable.shape) == 1 and not biases):
                continue
            gone = rng.permutation(variable.shape[-1])[: rng.integers(1, 4)]
            value = variable.numpy()
            value[..., gone] = 0.0
            variable.assign(value)


@pytest.mark.filterwarnings("ignore:No channel of model")
@pytest.mark.parametrize("biases", [False, True], ids=["kernels", "biases_too"])
@pytest.mark.parametrize("builder", BUILDERS)
def test_the_outputs_stay_the_same(builder, biases):
    model = randomise(builder())
    zero_some(model, biases)
    small, x = smart_tf.shrink(model), inputs_for(model)
    assert_same_outputs(model, small, x)
    # Called without `training`, a layer inside follows what the graph says of it.
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("builder", BUILDERS)
def test_any_part_of_a_group_can_go(builder):
    model = randomise(builder())
    groups = find_groups(model)
    rng = np.random.default_rng(5)
    for number, group in enumerate(groups):
        # Not as many in one as in the next.
        size = 1 + number % (len(group.channels) - 1)
        gone = rng.permutation(group.channels)[:size]
        for made in groups.slices:
            slices = np.isin(made.channels, gone)
            value = np.moveaxis(made.variable.numpy().copy(), made.axis, 0)
            value[slices] = 0.0
            made.variable.assign(np.moveaxis(value, 0, made.axis))
    if len(groups):
        small = smart_tf.shrink(model)
        assert_same_outputs(model, small, inputs_for(model))
        assert small.count_params() < model.count_params()
        small.compile("sgd", "mse")
        outputs = model(inputs_for(model))
        small.fit(inputs_for(model), outputs, batch_size=len(outputs), verbose=0)
