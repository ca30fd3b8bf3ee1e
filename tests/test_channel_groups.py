"""`find_groups`: which channels go together, against small graphs done by hand."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.framework import ops

import smart_tf
from smart_tf.channels import find_groups
from tests import architectures
from tests.architectures import inputs_for, randomise


def table(groups):
    """`(size, makers, readers)` of every group, without an order."""
    found = [(len(g.channels), set(g.makers), set(g.readers)) for g in groups]
    return sorted(found, key=lambda row: sorted(row[1]))


def test_a_chain():
    groups = find_groups(architectures.sequential(keras))
    statistics = {"bn/moving_mean", "bn/moving_variance"}
    assert table(groups) == [
        (
            6,
            {"conv/kernel", "conv/bias", "bn/gamma", "bn/beta"},
            statistics | {"hidden/kernel"},
        ),
        (8, {"hidden/kernel", "hidden/bias"}, {"last/kernel"}),
    ]
    assert groups.reasons == {"last/kernel": "an output of the model"}


class Holder(layers.Layer):
    """Uses the kernel of another layer in a way that nobody knows."""

    def __init__(self, held, **kwargs):
        super().__init__(**kwargs)
        self.held = held

    def call(self, x):
        return x @ self.held.kernel


def test_channels_along_a_weight_that_another_layer_uses_stay():
    x = keras.Input((6,))
    held = layers.Dense(6, name="held")
    free = layers.Dense(8, name="free")(held(x))
    y = Holder(held, name="holder")(layers.Dense(6, name="last")(free))
    groups = find_groups(keras.Model(x, y))
    assert table(groups) == [(8, {"free/kernel", "free/bias"}, {"last/kernel"})]
    assert groups.reasons == {
        "held/kernel": "'holder': not followed",
        "last/kernel": "'holder': not followed",
    }


def test_what_is_added_goes_together():
    x = keras.Input((5,))
    a = layers.Dense(4, name="a")(x)
    b = layers.Dense(4, name="b", use_bias=False)(layers.ReLU()(a))
    y = layers.Dense(3, name="c")(layers.Add()([a, b]))
    assert table(find_groups(keras.Model(x, y))) == [
        (4, {"a/kernel", "a/bias", "b/kernel"}, {"b/kernel", "c/kernel"})
    ]


def test_what_is_concatenated_does_not():
    x = keras.Input((5,))
    a = layers.Dense(4, name="a", use_bias=False)(x)
    b = layers.Dense(3, name="b", use_bias=False)(x)
    y = layers.Dense(2, name="c")(layers.Concatenate()([a, b, a]))
    groups = find_groups(keras.Model(x, y))
    assert table(groups) == [
        (4, {"a/kernel"}, {"c/kernel"}),
        (3, {"b/kernel"}, {"c/kernel"}),
    ]
    # 5 x 4 and 5 x 3, and 11 x 2 + 2 that reads the first twice.
    assert groups.costs("params").total() == 20 + 15 + 24
    assert groups.costs("params").total([3, 3]) == 15 + 15 + 20


def test_a_gate_goes_with_what_it_scales():
    groups = find_groups(architectures.squeeze_excite(keras))
    makers = {"conv/kernel", "conv/bias", "bn/gamma", "bn/beta"}
    makers |= {"excite/kernel", "excite/bias"}
    rest = {"bn/moving_mean", "bn/moving_variance", "squeeze/kernel", "after/kernel"}
    assert table(groups) == [
        (8, makers, rest),
        (4, {"squeeze/kernel", "squeeze/bias"}, {"excite/kernel"}),
    ]


def test_depthwise_and_separable_convolutions():
    x = keras.Input((6, 6, 3))
    y = layers.Conv2D(4, 1, use_bias=False, name="conv")(x)
    y = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="depth")(y)
    y = layers.SeparableConv2D(5, 1, use_bias=False, name="separable")(y)
    y = layers.Dense(2, name="last")(layers.Flatten()(y))
    assert table(find_groups(keras.Model(x, y))) == [
        (
            4,
            {"conv/kernel", "depth/kernel"},
            {"separable/depthwise_kernel", "separable/pointwise_kernel"},
        ),
        (5, {"separable/pointwise_kernel"}, {"last/kernel"}),
    ]


def test_groups_of_convolutions_and_of_normalisations():
    groups = find_groups(architectures.grouped(keras))
    assert [len(g.channels) for g in groups] == [4, 2, 6]
    # Each of the two is six of the twelve filters: three in each group.
    assert groups.costs("weights").total([4, 1, 6]) == 3 * 8 + 9 * 4 * 6 + 6 * 6 + 864


def test_heads_are_cut_one_by_one():
    groups = find_groups(architectures.vit(keras), round_to=2)
    found = {tuple(g.makers)[0]: (len(g.channels), g.unit) for g in groups}
    assert found == {
        "attention_1/kernel": (4, 1),
        "attention_2/kernel": (4, 1),
        "up_1/kernel": (12, 2),
        "up_2/kernel": (12, 2),
    }


def test_layers_that_are_left_out_or_frozen_keep_their_channels():
    model = architectures.sequential(keras)
    assert [g.makers[0] for g in find_groups(model)] == ["conv/kernel", "hidden/kernel"]
    groups = find_groups(model, accepts=lambda layer: layer.name != "hidden")
    assert [g.makers[0] for g in groups] == ["conv/kernel"]
    model.get_layer("bn").trainable = False
    assert [g.makers[0] for g in find_groups(model)] == ["hidden/kernel"]


def test_what_cannot_be_zeroed_says_why():
    groups = find_groups(architectures.two_in_two_out(keras))
    assert groups.reasons["both/kernel"] == (
        "what follows makes something else out of its zeros"
    )
    groups = find_groups(architectures.vit(keras))
    assert groups.reasons["patches/kernel"] == (
        "'ln_a1': all channels are normalised together"
    )


def test_one_channel_that_scales_many_stays():
    """Spatial attention."""
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 1, use_bias=False, name="conv")(image)
    s = layers.Conv2D(1, 1, activation="sigmoid", use_bias=False, name="where")(x)
    y = layers.Conv2D(2, 1, name="last")(x * s)
    groups = find_groups(keras.Model(image, y))
    assert table(groups) == [(6, {"conv/kernel"}, {"where/kernel", "last/kernel"})]
    assert "combined with many" in groups.reasons["where/kernel"]


def test_an_outer_product_is_not_followed():
    x = keras.Input((5,))
    a = layers.Reshape((4, 1))(layers.Dense(4, name="a")(x))
    b = layers.Reshape((1, 3))(layers.Dense(3, name="b")(x))
    y = layers.Dense(2, name="last")(layers.Flatten()(a * b))
    groups = find_groups(keras.Model(x, y))
    assert len(groups) == 0 and set(groups.reasons) == {
        "a/kernel",
        "b/kernel",
        "last/kernel",
    }


def test_it_prints():
    groups = find_groups(architectures.sequential(keras))
    printed = str(groups)
    assert "channels that can be removed together" in printed
    assert "hidden/kernel" in printed and "last/kernel (an output of the" in printed
    assert str(list(groups)[1]) == (
        "8 channels made by hidden/kernel, hidden/bias; read by last/kernel"
    )


@pytest.mark.parametrize("builder", architectures.BUILDERS)
def test_params_are_all_parameters(builder):
    model = builder(keras)
    assert find_groups(model).costs("params").total() == model.count_params()


def test_macs_by_hand():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, 2, padding="same", name="conv")(image)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depth")(x)
    x = layers.Conv2DTranspose(6, 2, strides=2, name="up")(x)
    x = layers.Conv2D(4, 1, groups=2, name="grouped")(x)
    x = layers.Dense(5, name="dense")(layers.Flatten()(x))
    groups = find_groups(keras.Model(image, layers.Dense(2, name="last")(x)))
    conv, depth = 4 * 4 * 9 * 3 * 4, 2 * 2 * 9 * 8
    up, mixed = 2 * 2 * 4 * 8 * 6, 4 * 4 * 3 * 4
    dense = 4 * 4 * 4 * 5 + 5 * 2
    assert groups.costs("macs").total() == conv + depth + up + mixed + dense


def test_macs_of_attention_by_hand():
    x = keras.Input((4, 6))
    y = layers.MultiHeadAttention(3, 2, value_dim=5, name="attention")(x, x)
    groups = find_groups(keras.Model(x, layers.Dense(2, name="last")(y)))
    projections = 4 * 6 * 3 * (2 + 2 + 5)
    products = 4 * 4 * 3 * (2 + 5)
    output = 4 * 3 * 5 * 6
    costs = groups.costs("macs")
    assert costs.total() == projections + products + output + 4 * 6 * 2
    heads = [g.makers[0] for g in groups].index("attention/kernel")
    kept = list(costs.sizes)
    kept[heads] = 2
    left = (projections + products + output) * 2 / 3
    assert costs.total(kept) == pytest.approx(left + 4 * 6 * 2)


@pytest.mark.parametrize("builder", [architectures.residual, architectures.bisenet])
def test_macs_against_the_statistics_of_tensorflow(builder):
    model = builder(keras)
    spec = tf.TensorSpec((1, *model.input_shape[1:]))
    graph = tf.function(lambda x: model(x)).get_concrete_function(spec).graph
    flops = sum(
        ops.get_stats_for_node_def(graph, op.node_def, "flops").value
        for op in graph.get_operations()
        if op.type in ("Conv2D", "MatMul")
    )
    assert 2 * find_groups(model).costs("macs").total() == flops


@pytest.mark.parametrize(
    "builder",
    [
        *(architectures.yolo, architectures.residual, architectures.vit),
        *(architectures.grouped, architectures.unet, architectures.generator),
    ],
)
def test_the_cost_after_cutting_is_that_of_the_small_model(builder):
    model = randomise(builder(keras))
    groups = find_groups(model)
    kept = architectures.cut_half(model, groups, seed=1)
    small = find_groups(smart_tf.shrink(model))
    for kind in ("weights", "params", "macs"):
        left = groups.costs(kind).total(kept)
        assert left == pytest.approx(small.costs(kind).total())


def test_costs_that_cannot_be_counted():
    x = keras.Input((None, None, 3))
    y = layers.Conv2D(4, 3, name="conv")(x)
    groups = find_groups(keras.Model(x, layers.Conv2D(2, 1)(y)))
    assert groups.costs("params").total() == 9 * 3 * 4 + 4 + 4 * 2 + 2
    with pytest.raises(ValueError, match="how often 'conv/kernel' multiplies"):
        groups.costs("macs")
    with pytest.raises(ValueError, match="Received: budget='flops'"):
        groups.costs("flops")


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (layers.Bidirectional(layers.LSTM(8)), (5, 4), 2 * 5 * (4 + 8) * 4 * 8),
        (layers.EinsumDense("abc,bcd->abd", (5, 8)), (5, 4), 5 * 4 * 8),
        (layers.EinsumDense("abc,cde->abde", (5, 2, 8)), (5, 4), 5 * 4 * 2 * 8),
        (layers.TimeDistributed(layers.Conv1D(8, 3)), (5, 6, 4), None),
        (layers.RNN([layers.LSTMCell(8)]), (5, 4), None),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_layers_that_are_not_followed_cost_what_they_do_or_say_so(layer, shape, macs):
    x = keras.Input(shape)
    model = keras.Model(x, layer(layers.Dense(shape[-1], name="up")(x)))
    up = math.prod(shape) * shape[-1]
    costs = find_groups(model).costs
    kernels = [v for v in model.weights if "kernel" in v.path]
    assert costs("weights").total() == sum(math.prod(v.shape) for v in kernels)
    if macs is None:
        with pytest.raises(ValueError, match="how often '.*kernel' multiplies"):
            costs("macs")
        assert smart_tf.compare(model, model, files=False).macs is None
    else:
        assert costs("macs").total() == up + macs


def test_channels_on_another_axis_are_counted():
    x = keras.Input((6, 4))
    y = layers.Permute((2, 1))(layers.Dense(8)(x))
    model = keras.Model(x, layers.Dense(3)(y))
    assert find_groups(model).costs("macs").total() == 6 * 4 * 8 + 8 * 6 * 3


def test_a_model_with_unknown_sizes_is_shrunk():
    x = keras.Input((None, None, 3))
    y = layers.ReLU()(layers.Conv2D(4, 3, name="conv")(x))
    y = layers.Concatenate()([y, layers.AveragePooling2D(3, 1, padding="same")(y)])
    model = randomise(keras.Model(x, layers.Conv2D(2, 1, name="last")(y)))
    architectures.zero(model, {"conv": [1]})
    small = smart_tf.shrink(model)
    architectures.assert_same_outputs(model, small, inputs_for(model))
    assert architectures.shapes(small)["last"] == (1, 1, 6, 2)


def test_the_model_is_left_as_it_is():
    model = randomise(architectures.residual(keras))
    before = [np.array(v.numpy()) for v in model.weights]
    find_groups(model)
    for one, variable in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(one, variable.numpy())
