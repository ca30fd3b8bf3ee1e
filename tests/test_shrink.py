"""`shrink`: the same outputs from a smaller model."""

import keras
import numpy as np
import pytest
from keras import layers

import smart_tf
from tests import architectures
from tests.architectures import (
    assert_same_outputs,
    cut_half,
    inputs_for,
    randomise,
    shapes,
    zero,
)
from tests.references import weights


def shrunk(model, zeros, biases=True):
    """The shrunk model, after a look at its outputs."""
    zero(model, zeros, biases)
    small = smart_tf.shrink(model)
    assert_same_outputs(model, small, inputs_for(model))
    return small


def assert_shapes(model, expected):
    found = shapes(model)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    "builder, zeros, expected",
    architectures.CASES,
    ids=architectures.names_of(architectures.CASES),
)
def test_channels_that_are_zero_everywhere_go_and_others_stay(builder, zeros, expected):
    assert_shapes(shrunk(randomise(builder(keras)), zeros), expected)


@pytest.mark.parametrize(
    "builder, zeros, expected",
    architectures.KERNELS_ONLY,
    ids=architectures.names_of(architectures.KERNELS_ONLY),
)
def test_biases_on_zeroed_kernels_are_folded_where_that_is_exact(
    builder, zeros, expected
):
    small = shrunk(randomise(builder(keras)), zeros, biases=False)
    assert_shapes(small, expected)


@pytest.mark.parametrize("builder", architectures.BUILDERS)
def test_half_of_every_group(builder):
    model = randomise(builder(keras))
    groups = smart_tf.channels.find_groups(model)
    kept = cut_half(model, groups)
    small = smart_tf.shrink(model)
    assert_same_outputs(model, small, inputs_for(model))
    assert small.count_params() == groups.costs("params").total(kept)
    assert small.count_params() < model.count_params()


def test_constants_stay_next_to_a_padding_of_zeros():
    model = randomise(architectures.residual(keras))
    zero(model, {"in_1": [0, 1]}, biases=False)
    beta = model.get_layer("bn_in_1").beta
    beta.assign([100.0, -100.0, 0.0, 0.0, 0.0, 0.0])  # a ReLU makes 0 of the second
    small = shrunk(model, {})
    assert_shapes(small, {"in_1": (3, 3, 8, 5), "out_1": (3, 3, 5, 8)})


def test_operators_of_keras_ops():
    ops, k = keras.ops, keras
    image = k.Input((6, 6, 3))
    x = layers.Conv2D(8, 1, name="conv")(image)
    s = ops.mean(x, axis=[1, 2])
    s = ops.sigmoid(layers.Dense(8, name="gate")(s))
    s = ops.expand_dims(ops.expand_dims(s, 1), 1)
    x = ops.relu(x) * s
    x = ops.concatenate([x, 2.0 * ops.maximum(x, 0.0)], axis=-1)
    x = ops.transpose(layers.Conv2D(6, 1, name="after")(x), (0, 2, 1, 3))
    x = ops.max(ops.reshape(x, (-1, 36, 6)), axis=1)
    model = randomise(k.Model(image, layers.Dense(4, name="last")(x)))
    small = shrunk(model, {"conv": [0, 1, 2], "after": [5]})
    expected = {"conv": (1, 1, 3, 5), "gate": (5, 5), "after": (1, 1, 10, 5)}
    assert_shapes(small, {**expected, "last": (5, 4)})


def test_channels_first():
    """Of the layers that run on a CPU with it."""
    image = keras.Input((6, 6, 3))
    first = {"data_format": "channels_first"}
    x = layers.Permute((3, 1, 2))(layers.Conv2D(8, 3, name="conv")(image))
    x = layers.ReLU()(layers.BatchNormalization(1, name="bn")(x))
    x = layers.ZeroPadding2D(1, **first)(x)
    y = layers.GlobalAveragePooling2D(**first)(x)
    x = layers.Flatten(**first)(x)
    x = layers.Concatenate()([layers.Dense(4, name="flat")(x), y])
    model = randomise(keras.Model(image, layers.Dense(4, name="last")(x)))
    zeros = {"conv": [0, 6], "bn": [0, 6]}
    small = shrunk(model, zeros)
    assert_shapes(small, {"conv": (3, 3, 3, 6), "flat": (216, 4), "last": (10, 4)})


def test_heads_of_attention():
    model = randomise(architectures.vit(keras))
    attention = model.get_layer("attention_1")
    for part in (attention._query_dense, attention._key_dense, attention._value_dense):
        for variable, axis in ((part.kernel, 1), (part.bias, 0)):
            value = variable.numpy()
            np.moveaxis(value, axis, 0)[[0, 3]] = 0
            variable.assign(value)
    small = smart_tf.shrink(model)
    assert_same_outputs(model, small, inputs_for(model))
    assert small.get_layer("attention_1").num_heads == 2
    assert small.get_layer("attention_2").num_heads == 4


def test_scores_of_attention_that_are_used_keep_their_heads():
    x = keras.Input((4, 6))
    y, scores = layers.MultiHeadAttention(4, 3, name="attention")(
        x, x, return_attention_scores=True
    )
    model = randomise(keras.Model(x, [y, scores]))
    value = model.get_layer("attention")._value_dense
    value.kernel.assign(value.kernel.numpy() * np.array([0, 1, 1, 0])[:, None])
    value.bias.assign(value.bias.numpy() * np.array([0, 1, 1, 0])[:, None])
    with pytest.warns(UserWarning, match="No channel"):
        small = smart_tf.shrink(model)
    assert_same_outputs(model, small, inputs_for(model))


def test_a_layer_that_nothing_reads_keeps_one_channel():
    model = randomise(architectures.sequential(keras))
    small = shrunk(model, {"hidden": list(range(8)), "last": []})
    assert_shapes(small, {"conv": (3, 3, 2, 1), "hidden": (16, 1), "last": (1, 3)})


def test_constants_that_differ_between_two_calls_stay():
    """One bias cannot take the place of two constants."""
    one, other = keras.Input((6,)), keras.Input((6,))
    a = layers.Dense(4, name="a")(one)
    b = layers.Dense(4, name="b")(other)
    reader = layers.Dense(3, name="reader")
    model = randomise(keras.Model([one, other], [reader(a), reader(b)]))
    small = shrunk(model, {"a": [0, 1], "b": [0, 1]}, biases=False)
    assert_shapes(small, {"a": (6, 4), "b": (6, 4), "reader": (4, 3)})
    b = model.get_layer("b").bias
    b.assign(np.where(np.arange(4) == 1, model.get_layer("a").bias.numpy(), b.numpy()))
    small = shrunk(model, {})
    assert_shapes(small, {"a": (6, 3), "b": (6, 3), "reader": (3, 3)})


def test_the_shrunk_model_has_the_same_names_and_its_own_variables():
    model = randomise(architectures.two_in_two_out(keras))
    zero(model, {"one": [0], "other": [0]})
    before = weights(model)
    small = smart_tf.shrink(model)
    assert type(small) is type(model) and small.name == model.name
    assert [k.name for k in small.layers] == [k.name for k in model.layers]
    assert [x.name for x in small.inputs] == [x.name for x in model.inputs]
    assert small.output_names == model.output_names
    for variable in small.weights:
        variable.assign(variable + 1.0)
    assert all(
        np.array_equal(a, b) for a, b in zip(before, weights(model), strict=True)
    )


@pytest.mark.parametrize("builder", [architectures.nested, architectures.sequential])
def test_it_trains_on_and_is_saved_and_exported(builder, tmp_path):
    model = randomise(builder(keras))
    cut_half(model, smart_tf.channels.find_groups(model))
    small = smart_tf.shrink(model)
    x = inputs_for(model, count=8)
    small.compile("sgd", "mse")
    before = weights(small)
    small.fit(x, np.zeros((8, small.output_shape[-1])), verbose=0)
    assert not np.array_equal(before[0], weights(small)[0])
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    assert_same_outputs(small, loaded, x, tolerance=0)
    report = smart_tf.export.to_tflite(small, tmp_path / "small.tflite")
    assert report.max_difference < 1e-4


def test_a_frozen_layer_stays_frozen():
    model = randomise(architectures.sequential(keras))
    model.get_layer("hidden").trainable = False
    small = shrunk(model, {"conv": [0], "bn": [0]})
    assert not small.get_layer("hidden").trainable
    assert small.get_layer("conv").trainable


def test_a_mask_of_kernels_alone():
    """As tfmot's `prune_low_magnitude` leaves it: biases and betas are alive."""
    model = randomise(architectures.batch_norm_chain(keras))
    for name in ("conv", "separable"):
        kernel = model.get_layer(name).weights[-2 if name == "separable" else 0]
        value = kernel.numpy()
        value[..., :3] = 0
        kernel.assign(value)
    model.get_layer("depth").kernel.assign(
        model.get_layer("depth").kernel.numpy() * (np.arange(8) > 4)[:, None]
    )
    small = smart_tf.shrink(model)
    assert_same_outputs(model, small, inputs_for(model))
    assert_shapes(small, {"conv": (3, 3, 3, 3), "depth": (3, 3, 3, 2), "last": (3, 4)})


def test_single_zeros_remove_nothing():
    model = randomise(architectures.residual(keras))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = layer.kernel.numpy()
            layer.kernel.assign(kernel * (rng.random(kernel.shape) < 0.5))
    with pytest.warns(UserWarning, match="No channel of model .* can be removed"):
        small = smart_tf.shrink(model)
    assert_same_outputs(model, small, inputs_for(model), tolerance=0)
    assert shapes(small) == shapes(model)


def dead_in_front_of(layer, make=lambda: layers.Dense(8, name="dense")):
    """A model of two layers, the first with half of its channels at zero."""
    x = keras.Input((6,))
    y = layer(make()(x))
    model = keras.Model(x, layers.Dense(3, name="last")(y))
    zero(randomise(model), {"dense": [0, 1, 2, 3]})
    return model


class Opaque(layers.Layer):
    def call(self, x):
        return keras.ops.cumsum(x, axis=-1)


@pytest.mark.parametrize(
    "layer, words",
    [
        (layers.Lambda(lambda x: x[:, ::-1], name="flip"), "'flip': not followed"),
        (Opaque(name="opaque"), "'opaque': not followed"),
        (layers.Softmax(name="soft"), "'soft': it mixes the channels"),
        (layers.LayerNormalization(name="norm"), "'norm': all channels are normalised"),
        (lambda x: x[:, :6], "not followed"),
        (lambda x: keras.ops.sum(x, axis=-1, keepdims=True), "reduces over"),
        (lambda x: x * np.arange(8.0, dtype="float32"), "an array of numbers"),
        (layers.Activation(lambda x: x / keras.ops.sum(x * x, -1, True)), "it mixes"),
        (layers.Dropout(0.5, name="on"), "adds noise"),
    ],
    ids=[
        "lambda",
        "custom",
        "softmax",
        "norm",
        "slice",
        "sum",
        "array",
        "own",
        "noise",
    ],
)
def test_what_cannot_be_followed_closes_its_channels_and_says_why(layer, words):
    noisy = getattr(layer, "name", "") == "on"
    model = dead_in_front_of((lambda x: layer(x, training=True)) if noisy else layer)
    groups = smart_tf.channels.find_groups(model)
    assert len(groups) == 0
    assert words in groups.reasons["dense/kernel"]
    with pytest.warns(UserWarning, match="No channel"):
        small = smart_tf.shrink(model)
    assert shapes(small)["dense"] == (6, 8)
    if not noisy:
        assert_same_outputs(model, small, inputs_for(model), tolerance=1e-6)


def test_an_activation_of_ones_own_is_followed_if_it_takes_each_entry_by_itself():
    model = dead_in_front_of(layers.Activation(lambda x: x * keras.ops.sigmoid(x)))
    small = smart_tf.shrink(model)
    assert_same_outputs(model, small, inputs_for(model))
    assert shapes(small)["dense"] == (6, 4)


def test_a_subclass_of_a_built_in_layer():
    class Same(layers.Dense):
        pass

    class Other(layers.Dense):
        def call(self, inputs):
            return super().call(keras.ops.flip(inputs, axis=-1))

    for reader, width in ((Same, 4), (Other, 8)):
        model = dead_in_front_of(reader(5))
        small = smart_tf.shrink(model)
        assert_same_outputs(model, small, inputs_for(model))
        assert shapes(small)["dense"] == (6, width)


class Scale(layers.Layer):
    """One factor for each channel."""

    def build(self, shape):
        self.factor = self.add_weight((shape[-1],), name="factor")

    def call(self, x):
        return x * self.factor


class Twice(layers.Layer):
    def call(self, x):
        return 2.0 * x


def test_rules_for_custom_layers():
    def scale_rule(flow, call):
        ids, constant = call.signals[0].vector(-1)
        factor = call.layer.factor
        maker = flow.makes(call.layer, [(factor, 0, ids)], is_norm=True)
        return smart_tf.channels.on_axis(
            call.shape, -1, ids, constant * flow.value(factor), (maker,)
        )

    smart_tf.channels.register_rule(Scale, scale_rule)
    smart_tf.channels.register_rule(Twice, "elementwise")
    model = dead_in_front_of(lambda x: Scale(name="scale")(Twice()(x)))
    small = smart_tf.shrink(model)
    assert_same_outputs(model, small, inputs_for(model))
    assert_shapes(small, {"dense": (6, 4), "scale": (4,), "last": (4, 3)})


def test_register_rule_refuses_what_is_no_rule():
    with pytest.raises(TypeError, match="Argument `cls` must be a layer class"):
        smart_tf.channels.register_rule("Dense", "elementwise")
    with pytest.raises(TypeError, match="Received: rule='pointwise'"):
        smart_tf.channels.register_rule(Twice, "pointwise")


def test_statistics_of_a_normalization_layer_come_along():
    norm = layers.Normalization(name="norm")
    norm.adapt(np.random.default_rng(0).normal(3, 5, (100, 6)))
    model = keras.Sequential(
        [keras.Input((6,)), norm, layers.Dense(8, "relu"), layers.Dense(3)]
    )
    model.layers[1].kernel.assign(model.layers[1].kernel * (np.arange(8) > 2))
    small = smart_tf.shrink(model)
    assert small.layers[1].units == 5
    assert_same_outputs(model, small, inputs_for(model))


def test_mixed_precision():
    x = keras.Input((6,))
    y = layers.Dense(8, "relu", dtype="mixed_float16", name="dense")(x)
    model = randomise(keras.Model(x, layers.Dense(3, name="last")(y)))
    assert_shapes(shrunk(model, {"dense": [0, 1]}), {"dense": (6, 6), "last": (6, 3)})


def test_models_that_are_refused_are_left_as_they_are():
    model = randomise(architectures.sequential(keras))
    pruned = smart_tf.prune(model, sparsity=0.5, structure="channel")
    before = weights(pruned)
    with pytest.raises(ValueError, match="has pruning wrappers.*strip_pruning"):
        smart_tf.shrink(pruned)
    assert all(
        np.array_equal(a, b) for a, b in zip(before, weights(pruned), strict=True)
    )

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="must be a Functional or Sequential model"):
        smart_tf.shrink(Subclassed())
    with pytest.raises(ValueError, match="must be built"):
        smart_tf.shrink(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(TypeError, match="must be a Keras model"):
        smart_tf.shrink("model.keras")


class NoConfig(layers.Layer):
    def __init__(self, function):
        super().__init__(name="no_config")
        self.function = function

    def call(self, x):
        return self.function(x)


def test_a_layer_that_cannot_be_copied_is_named():
    model = dead_in_front_of(NoConfig(lambda x: x))
    with pytest.raises(ValueError, match="Layer 'no_config' of class NoConfig cannot"):
        smart_tf.shrink(model)


SMALL_SIZES = {
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "InceptionV3": 80,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "NASNetMobile": 32,
    "ResNet50V2": 32,
    "Xception": 72,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_SIZES)
def test_keras_applications(name):
    size = SMALL_SIZES[name]
    build = getattr(keras.applications, name)
    model = build(
        weights=None,
        input_shape=(size, size, 3),
        classes=10,
        classifier_activation=None,
    )
    realistic(model)
    groups = smart_tf.channels.find_groups(model)
    kept = cut_half(model, groups)
    small = smart_tf.shrink(model)
    assert_same_outputs(model, small, inputs_for(model, count=2))
    assert small.count_params() == groups.costs("params").total(kept)
    assert small.count_params() < 0.75 * model.count_params()


def realistic(model):
    """Biases, and normalisations as after some training."""
    rng = np.random.default_rng(0)
    ranges = {"moving_mean": (-0.1, 0.1), "moving_variance": (0.5, 1.5)}
    ranges |= {"gamma": (0.5, 1.5), "beta": (-0.1, 0.1), "bias": (-0.1, 0.1)}
    for variable in model.weights:
        if variable.name in ranges:
            variable.assign(rng.uniform(*ranges[variable.name], variable.shape))
