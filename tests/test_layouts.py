"""Which weights are found in the layers of both flavours, and what their axes mean."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from smart_tf import prunable
from smart_tf.layouts import Layout
from smart_tf.prunable import prunable_weights, register_prunable, why_not
from smart_tf.structures import Channel

FLAVOURS = pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras", "tf_keras"])


@pytest.fixture
def registry(monkeypatch):
    """Forgets what a test registers."""
    monkeypatch.setattr(prunable.declared, "_REGISTERED", {})


def built(layer, *shapes):
    layer(*(np.zeros((1, *shape), "float32") for shape in shapes))
    return layer


def found(layer):
    """Lists the shapes and layouts of what is found."""
    return [
        (tuple(w.variable.shape), w.layout.outputs, w.layout.inputs)
        for w in prunable_weights(layer)
    ]


# ---- Layouts


def test_canonical_axes_stand_in_the_order_of_the_kernel():
    assert Layout((3,), (2,)).canonical_shape((3, 5, 7, 11)) == (3, 5, 7, 11)
    assert Layout((3,), (2,)).roles(4) == ("position", "position", "input", "output")
    assert Layout((2,), (3,)).roles(4) == ("position", "position", "output", "input")
    assert Layout((1, 2), (0,)).canonical_shape((8, 2, 3)) == (8, 6)
    assert Layout((2,), (0, 1)).canonical_shape((2, 3, 8)) == (6, 8)
    assert Layout((), ()).canonical_shape((2, 3)) == (2, 3)


def test_neighbouring_axes_merge_without_a_transposition():
    assert Layout((1, 2), (0,)).permutation(3) is None
    assert Layout((2, 3), ()).permutation(4) is None
    assert Layout((0, 2), (1,)).permutation(3) == (0, 2, 1)
    assert Layout((0, 2), (1,)).canonical_shape((2, 3, 5)) == (10, 3)
    assert Layout((2, 1), (0,)).permutation(3) == (0, 2, 1)


def test_negative_axes_count_from_the_end():
    assert Layout((-1,), (-2,)).groups(4) == Layout((3,), (2,)).groups(4)
    assert Layout(1, [0]) == Layout((1,), (0,))


def test_axes_that_clash_or_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="each axis at most once.*outputs=\\(1,\\)"):
        Layout((1,), (0, 1))
    with pytest.raises(ValueError, match="names an axis of a rank 2 kernel twice"):
        Layout((1,), (-1,)).groups(2)
    with pytest.raises(ValueError, match="does not fit a kernel of rank 2"):
        Layout((2,), (0,)).groups(2)


# ---- The kernels of the built-in layers


@FLAVOURS
@pytest.mark.parametrize(
    "build, shape, expected",
    [
        (lambda L: L.Dense(3), (4,), [((4, 3), (1,), (0,))]),
        (lambda L: L.Conv1D(6, 3), (8, 4), [((3, 4, 6), (2,), (1,))]),
        (lambda L: L.Conv2D(6, 3), (8, 8, 4), [((3, 3, 4, 6), (3,), (2,))]),
        (lambda L: L.Conv2D(6, 3, groups=2), (8, 8, 4), [((3, 3, 2, 6), (3,), (2,))]),
        (lambda L: L.Conv3D(6, 2), (4, 4, 4, 3), [((2, 2, 2, 3, 6), (4,), (3,))]),
        (lambda L: L.Conv1DTranspose(6, 3), (8, 4), [((3, 6, 4), (1,), (2,))]),
        (lambda L: L.Conv2DTranspose(6, 3), (8, 8, 4), [((3, 3, 6, 4), (2,), (3,))]),
        (
            lambda L: L.Conv3DTranspose(6, 2),
            (4, 4, 4, 3),
            [((2, 2, 2, 6, 3), (3,), (4,))],
        ),
        (
            lambda L: L.DepthwiseConv1D(3, depth_multiplier=2),
            (8, 4),
            [((3, 4, 2), (1, 2), ())],
        ),
        (
            lambda L: L.DepthwiseConv2D(3, depth_multiplier=2),
            (8, 8, 4),
            [((3, 3, 4, 2), (2, 3), ())],
        ),
        (
            lambda L: L.SeparableConv1D(5, 3, depth_multiplier=2),
            (8, 4),
            [((3, 4, 2), (1, 2), ()), ((1, 8, 5), (2,), (1,))],
        ),
        (
            lambda L: L.SeparableConv2D(5, 3, depth_multiplier=2),
            (8, 8, 4),
            [((3, 3, 4, 2), (2, 3), ()), ((1, 1, 8, 5), (3,), (2,))],
        ),
        (
            lambda L: L.SimpleRNN(3),
            (5, 4),
            [((4, 3), (1,), (0,)), ((3, 3), (1,), (0,))],
        ),
        (lambda L: L.GRU(3), (5, 4), [((4, 9), (1,), (0,)), ((3, 9), (1,), (0,))]),
        (lambda L: L.LSTM(3), (5, 4), [((4, 12), (1,), (0,)), ((3, 12), (1,), (0,))]),
        (
            lambda L: L.RNN(L.StackedRNNCells([L.GRUCell(3), L.LSTMCell(2)])),
            (5, 4),
            [
                ((4, 9), (1,), (0,)),
                ((3, 9), (1,), (0,)),
                ((3, 8), (1,), (0,)),
                ((2, 8), (1,), (0,)),
            ],
        ),
        (
            lambda L: L.Bidirectional(L.LSTM(3)),
            (5, 4),
            [((4, 12), (1,), (0,)), ((3, 12), (1,), (0,))] * 2,
        ),
        (
            lambda L: L.ConvLSTM1D(3, 2),
            (5, 8, 4),
            [((2, 4, 12), (2,), (1,)), ((2, 3, 12), (2,), (1,))],
        ),
        (
            lambda L: L.ConvLSTM2D(3, 2),
            (5, 8, 8, 4),
            [((2, 2, 4, 12), (3,), (2,)), ((2, 2, 3, 12), (3,), (2,))],
        ),
        (lambda L: L.Embedding(7, 3), (5,), [((7, 3), (1,), (0,))]),
        (lambda L: L.TimeDistributed(L.Dense(3)), (5, 4), [((4, 3), (1,), (0,))]),
        (
            lambda L: L.EinsumDense("abc,cde->abde", (None, 2, 3)),
            (5, 4),
            [((4, 2, 3), (1, 2), (0,))],
        ),
        (
            lambda L: L.EinsumDense("...x,xy->...y", 3),
            (5, 4),
            [((4, 3), (1,), (0,))],
        ),
        (
            lambda L: L.EinsumDense("abc,bcd->abd", (5, 3)),
            (5, 4),
            [((5, 4, 3), (2,), (1,))],
        ),
        (
            lambda L: L.EinsumDense("abc,dce->abde", (5, 2, 3)),
            (5, 4),
            [((2, 4, 3), (0, 2), (1,))],
        ),
    ],
)
def test_kernels_of_built_in_layers(k, build, shape, expected):
    layer = built(build(k.layers), shape)
    assert found(layer) == expected
    held = {id(v) for v in layer.variables}
    for weight in prunable_weights(layer):
        assert id(weight.variable) in held
        assert "kernel" in weight.name or "embeddings" in weight.name
    assert why_not(layer) is None


@FLAVOURS
def test_attention_merges_heads_with_their_sizes(k):
    layer = built(k.layers.MultiHeadAttention(2, 3, value_dim=5), (6, 8), (6, 8))
    assert found(layer) == [
        ((8, 2, 3), (1, 2), (0,)),
        ((8, 2, 3), (1, 2), (0,)),
        ((8, 2, 5), (1, 2), (0,)),
        ((2, 5, 8), (2,), (0, 1)),
    ]


def test_layers_that_only_keras_3_has():
    layer = built(keras.layers.GroupQueryAttention(4, 4, 2), (6, 8), (6, 8))
    assert [shape for shape, _, _ in found(layer)] == [
        (8, 4, 4),
        (8, 2, 4),
        (8, 2, 4),
        (4, 4, 8),
    ]
    layer = keras.layers.ReversibleEmbedding(7, 3, tie_weights=False)
    layer.build((None, 5))
    assert found(layer) == [((7, 3), (1,), (0,)), ((3, 7), (1,), (0,))]


def test_layers_that_only_tf_keras_has():
    layer = built(tf_keras.layers.LocallyConnected1D(6, 3), (8, 4))
    assert found(layer) == [((6, 12, 6), (2,), (1,))]
    layer = built(tf_keras.layers.LocallyConnected2D(6, 3), (5, 5, 4))
    assert found(layer) == [((9, 36, 6), (2,), (1,))]
    for implementation in (2, 3):
        layer = tf_keras.layers.LocallyConnected1D(6, 3, implementation=implementation)
        assert why_not(built(layer, (8, 4))) == "no kernel"


LINEAR = {
    "Dense": (lambda L: L.Dense(3, use_bias=False), (4,)),
    "Conv1D": (lambda L: L.Conv1D(3, 2, use_bias=False), (5, 4)),
    "Conv2D": (lambda L: L.Conv2D(3, 2, use_bias=False), (5, 5, 4)),
    "Conv2DTranspose": (lambda L: L.Conv2DTranspose(3, 2, use_bias=False), (5, 5, 4)),
    "Conv3DTranspose": (
        lambda L: L.Conv3DTranspose(3, 2, use_bias=False),
        (3, 3, 3, 4),
    ),
    "DepthwiseConv2D": (
        lambda L: L.DepthwiseConv2D(2, depth_multiplier=3, use_bias=False),
        (5, 5, 4),
    ),
    "heads": (lambda L: L.EinsumDense("abc,cde->abde", (None, 3, 2)), (5, 4)),
    "outputs around inputs": (
        lambda L: L.EinsumDense("abc,dce->abde", (None, 3, 2)),
        (5, 4),
    ),
    "merge": (lambda L: L.EinsumDense("abcd,cde->abe", (None, 3)), (5, 2, 4)),
}


@FLAVOURS
@pytest.mark.parametrize("name", LINEAR)
def test_a_zero_output_in_the_kernel_is_a_zero_channel_of_the_layer(k, name):
    build, shape = LINEAR[name]
    layer = built(build(k.layers), shape)
    (weight,) = prunable_weights(layer)
    kernel = np.random.default_rng(0).uniform(1, 2, weight.variable.shape)
    kernel = kernel.astype("float32")
    channels = Channel().grid_shape(kernel.shape, weight.layout)
    dead = np.prod(channels) - 2
    mask = np.ones(np.prod(channels), "float32")
    mask[dead] = 0
    weight.variable.assign(Channel().apply(kernel, mask, weight.layout))
    outputs = layer(np.ones((1, *shape), "float32")).numpy()
    outputs = outputs.reshape(-1, mask.size)
    np.testing.assert_array_equal(np.all(outputs == 0, axis=0), mask == 0)


@FLAVOURS
@pytest.mark.parametrize("name", [n for n in LINEAR if n != "DepthwiseConv2D"])
def test_a_zero_input_in_the_kernel_is_a_zero_input_of_the_layer(k, name):
    build, shape = LINEAR[name]
    layer = built(build(k.layers), shape)
    (weight,) = prunable_weights(layer)
    kernel = np.random.default_rng(0).normal(size=weight.variable.shape)
    weight.variable.assign(kernel)
    inputs = np.random.default_rng(1).normal(size=(1, *shape)).astype("float32")
    blank = inputs.copy()
    blank[..., 1] = 0
    expected = layer(blank).numpy()
    at = [slice(None)] * kernel.ndim
    at[weight.layout.inputs[-1]] = 1
    kernel[tuple(at)] = 0
    weight.variable.assign(kernel)
    np.testing.assert_allclose(layer(inputs).numpy(), expected, atol=1e-5)
    assert not np.allclose(expected, 0)


# ---- Where the variable is held


@FLAVOURS
def test_the_attribute_can_be_read_under_which_the_variable_is_held(k):
    for layer, shape in [
        (k.layers.Dense(2), (3,)),
        (k.layers.Embedding(5, 2), (3,)),
        (k.layers.Conv2D(2, 3), (4, 4, 3)),
    ]:
        (weight,) = prunable_weights(built(layer, shape))
        assert weight.owner is layer
        assert vars(layer)[weight.attribute] is weight.variable


def test_the_attribute_of_a_tf_keras_weight_can_be_swapped():
    layer = built(tf_keras.layers.Dense(2, use_bias=False), (3,))
    (weight,) = prunable_weights(layer)
    kernel = weight.variable
    object.__setattr__(weight.owner, weight.attribute, tf.zeros((3, 2)))
    assert not np.any(layer(np.ones((1, 3), "float32")))
    object.__setattr__(weight.owner, weight.attribute, kernel)
    assert np.any(layer(np.ones((1, 3), "float32")))


@FLAVOURS
def test_names_are_paths(k):
    inputs = k.Input((5, 4))
    x = k.layers.Bidirectional(k.layers.GRU(2, name="gru"), name="both")(inputs)
    model = k.Model(inputs, k.layers.Dense(2, name="head")(x))
    names = [weight.name for weight in prunable_weights(model)]
    assert len(set(names)) == 5
    assert names[-1].endswith("head/kernel")
    assert all("both/" in name and "gru_cell" in name for name in names[:-1])
    alone = k.layers.Dense(2, name="alone")
    alone.build((None, 3))
    assert prunable_weights(alone)[0].name == "alone/kernel"


def test_mixed_precision_weights_are_the_variables_of_the_layer():
    for k in (keras, tf_keras):
        layer = built(k.layers.Dense(2, dtype="mixed_float16"), (3,))
        (weight,) = prunable_weights(layer)
        assert any(weight.variable is v for v in layer.trainable_variables)


# ---- Nesting, sharing, freezing


@FLAVOURS
def test_models_in_models_are_searched_and_shared_weights_found_once(k):
    shared = k.layers.Dense(4, name="shared")
    inner = k.Sequential([k.layers.Dense(4), shared], name="inner")
    inputs = k.Input((4,))
    model = k.Model(inputs, shared(inner(shared(inputs))))
    weights = prunable_weights(model)
    assert len(weights) == 2
    assert sum(w.owner is shared for w in weights) == 1


@FLAVOURS
def test_subclassed_models_with_lists_of_layers_are_searched(k):
    class Net(k.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [k.layers.Dense(4), k.layers.Dense(4)]
            self.heads = {"a": k.layers.Dense(2)}

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return self.heads["a"](x)

    net = built(Net(), (3,))
    assert [shape for shape, _, _ in found(net)] == [(3, 4), (4, 4), (4, 2)]


@FLAVOURS
def test_tied_variables_are_found_once(k):
    class Tied(k.layers.Layer):
        def __init__(self):
            super().__init__()
            self.first, self.second = k.layers.Dense(3), k.layers.Dense(3)

        def build(self, shape):
            self.first.build(shape)
            self.second.build(shape)
            held = "_kernel" if hasattr(self.first, "_kernel") else "kernel"
            object.__setattr__(self.second, held, self.first.kernel)

        def call(self, x):
            return self.second(self.first(x))

    weights = prunable_weights(built(Tied(), (3,)))
    assert sum(w.variable is weights[0].variable for w in weights) == 1


@FLAVOURS
def test_frozen_layers_are_left_out(k):
    frozen, free = k.layers.Dense(3), k.layers.Dense(2)
    model = k.Sequential([k.Input((4,)), frozen, free])
    frozen.trainable = False
    assert [w.owner for w in prunable_weights(model)] == [free]
    assert why_not(frozen) == "not trainable"
    frozen.trainable = True
    assert len(prunable_weights(model)) == 2
    model.trainable = False
    assert prunable_weights(model) == []
    assert why_not(model) == "not trainable"


def test_frozen_variables_are_left_out():
    layer = built(keras.layers.Dense(3), (4,))
    layer._kernel.trainable = False
    assert prunable_weights(layer) == []
    assert why_not(layer) == "not trainable"


def test_kernels_under_lora_and_quantization_are_frozen(registry):
    layer = built(keras.layers.Dense(3), (4,))
    layer.enable_lora(2)
    assert why_not(layer) == "not trainable"
    register_prunable(keras.layers.Dense, lambda layer: ["kernel"])
    assert why_not(layer) == "not trainable"
    layer = built(keras.layers.Dense(3), (4,))
    layer.quantize("int8")
    assert why_not(layer) == "not trainable"


@FLAVOURS
def test_pruning_wrappers_are_not_searched(k):
    class Wrapper(k.layers.Wrapper):
        is_pruning_wrapper = True

        def call(self, x):
            return self.layer(x)

    wrapper = built(Wrapper(k.layers.Dense(3)), (4,))
    assert len(prunable_weights(wrapper.layer)) == 1
    assert prunable_weights(wrapper) == []
    assert why_not(wrapper) is None
    model = k.Sequential([k.Input((4,)), wrapper, k.layers.Dense(2)])
    assert [shape for shape, _, _ in found(model)] == [(3, 2)]


@FLAVOURS
def test_layers_before_they_are_built_have_nothing_to_prune(k):
    class Unknown(k.layers.Layer):
        pass

    dense = k.layers.Dense(3)
    for layer in (
        dense,
        k.layers.LSTM(3),
        k.layers.MultiHeadAttention(2, 3),
        Unknown(),
    ):
        assert prunable_weights(layer) == []
        assert why_not(layer) == "not built"
    assert prunable_weights(k.Sequential([dense])) == []
    assert why_not(k.Sequential([dense])) == "not built"


# ---- The protocol of tfmot, and layers taught by hand


def own_layer(k):
    """A layer with weights of rank 1 to 3, two of them in a list."""

    class Own(k.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(name="scale", shape=(4,))
            self.mixer = self.add_weight(name="mixer", shape=(2, 3, 5))
            self.steps = [self.add_weight(name=f"s{i}", shape=(3, 4)) for i in "01"]
            self.bias = self.add_weight(name="bias", shape=(4,))
            self.built = True

        def call(self, x):
            return x + tf.reduce_sum(self.steps[1])

    return Own


@FLAVOURS
def test_the_protocol_of_tfmot_is_known_by_its_method(k):
    class Declaring(own_layer(k)):
        def get_prunable_weights(self):
            return [self.scale, self.mixer]

    assert prunable_weights(Declaring()) == []
    assert why_not(Declaring()) == "not built"
    layer = built(Declaring(name="own"), (4,))
    assert found(layer) == [((4,), (0,), ()), ((2, 3, 5), (2,), (1,))]
    assert why_not(layer) is None
    assert [w.name.split("/")[-1] for w in prunable_weights(layer)] == [
        "scale",
        "mixer",
    ]


@FLAVOURS
def test_weights_in_lists_can_be_read_and_swapped(k, tmp_path):
    class Declaring(own_layer(k)):
        def get_prunable_weights(self):
            return list(self.steps)

    layer = built(Declaring(), (4,))
    first, second = prunable_weights(layer)
    assert first.variable is layer.steps[0] and second.variable is layer.steps[1]
    variable = second.variable
    if k is tf_keras:
        object.__setattr__(second.owner, second.attribute, tf.fill((3, 4), 2.0))
        assert np.all(layer(np.zeros((1, 4), "float32")) == 24.0)
        object.__setattr__(second.owner, second.attribute, variable)
        tf.train.Checkpoint(layer=layer).write(str(tmp_path / "checkpoint"))
    assert second.variable is variable


@FLAVOURS
def test_declared_weights_of_nested_built_in_layers_keep_their_layouts(k):
    class Declaring(k.layers.Layer):
        def __init__(self):
            super().__init__()
            self.up = k.layers.Conv2DTranspose(3, 2)
            self.mix = k.layers.Dense(3)

        def call(self, x):
            return self.mix(self.up(x))

        def get_prunable_weights(self):
            return [self.up.kernel]

    layer = built(Declaring(), (4, 4, 5))
    # The declaration is complete: the dense layer is meant to stay.
    assert found(layer) == [((2, 2, 3, 5), (2,), (3,))]
    assert prunable_weights(layer)[0].owner is layer.up
    model = k.Sequential([k.Input((4, 4, 5)), layer, k.layers.Dense(2)])
    assert [shape for shape, _, _ in found(model)] == [(2, 2, 3, 5), (3, 2)]


@FLAVOURS
def test_a_layer_may_declare_that_nothing_is_to_be_pruned(k):
    class Keep(k.layers.Dense):
        def get_prunable_weights(self):
            return []

    layer = built(Keep(3), (4,))
    assert prunable_weights(layer) == []
    assert why_not(layer) == "declares no prunable weights"


@FLAVOURS
def test_registered_layers_are_pruned_as_taught(k, registry):
    own = own_layer(k)
    layer = built(own(), (4,))
    assert why_not(layer) == "unknown layer: teach it with smart_tf.register_prunable"
    swapped = Layout(outputs=(0, 2), inputs=(1,))
    register_prunable(own, lambda self: ["scale", (self.mixer, swapped)])
    assert found(layer) == [((4,), (0,), ()), ((2, 3, 5), (0, 2), (1,))]
    assert why_not(layer) is None
    register_prunable(own, lambda self: [("mixer", Layout((-1,), (0,)))])
    assert found(layer) == [((2, 3, 5), (-1,), (0,))]
    assert found(built(type("Derived", (own,), {})(), (4,))) == found(layer)
    own.renamed = property(lambda self: self.mixer)
    register_prunable(own, lambda self: ["renamed"])
    assert [w.attribute for w in prunable_weights(layer)] == ["mixer"]


@FLAVOURS
def test_a_registered_class_goes_before_what_its_base_class_is_known_for(k, registry):
    class BiasOnly(k.layers.Dense):
        pass

    register_prunable(BiasOnly, lambda layer: ["bias"])
    assert found(built(BiasOnly(3), (4,))) == [((3,), (0,), ())]
    assert found(built(k.layers.Dense(3), (4,))) == [((4, 3), (1,), (0,))]
    assert found(built(type("Plain", (k.layers.Dense,), {})(3), (4,))) != []


def test_what_cannot_be_registered_is_refused(registry):
    for cls in ("Dense", dict, keras.layers.Dense(3)):
        with pytest.raises(TypeError, match="Argument `cls` must be a layer class"):
            register_prunable(cls, list)
    with pytest.raises(TypeError, match="Argument `fn` must be callable.*fn='kernel'"):
        register_prunable(keras.layers.Dense, "kernel")


@FLAVOURS
def test_wrong_declarations_name_the_layer(k, registry):
    own, stray = own_layer(k), tf.Variable(tf.zeros((2, 2)), name="stray")
    layer = built(own(name="mine"), (4,))
    for entry in ("kernel", 3, tf.zeros((2, 2)), "name"):
        register_prunable(own, lambda self, entry=entry: [entry])
        with pytest.raises(TypeError, match="of layer 'mine' must be variables"):
            prunable_weights(layer)
    register_prunable(own, lambda self: [stray])
    with pytest.raises(ValueError, match="of layer 'mine' must be held .*'stray"):
        prunable_weights(layer)
    register_prunable(own, lambda self: [("scale", Layout((1,), (0,)))])
    with pytest.raises(ValueError, match="does not fit a kernel of rank 1"):
        prunable_weights(layer)


# ---- Reasons


@FLAVOURS
def test_layers_without_a_kernel_say_so(k):
    class Tuned(k.layers.BatchNormalization):
        pass

    for layer in (k.layers.BatchNormalization(), k.layers.PReLU(), Tuned()):
        assert why_not(built(layer, (4,))) == "no kernel"
    for layer in (k.layers.ReLU(), k.layers.Flatten(), k.layers.Dropout(0.5)):
        assert why_not(built(layer, (4,))) is None


@FLAVOURS
def test_own_recurrent_cells_are_unknown(k):
    class Cell(getattr(k.layers, "AbstractRNNCell", k.layers.Layer)):
        state_size = output_size = 4

        def build(self, shape):
            self.mix = self.add_weight(name="mix", shape=(4, 4))
            self.built = True

        def call(self, x, states):
            return x + states[0] @ self.mix, states

    layer = built(k.layers.RNN(Cell()), (5, 4))
    assert why_not(layer) == "unknown layer: teach it with smart_tf.register_prunable"


@FLAVOURS
def test_containers_pass_on_the_reason_of_what_they_hold(k):
    model = k.Sequential(
        [k.Input((4,)), k.layers.ReLU(), k.layers.BatchNormalization()]
    )
    assert why_not(model) == "no kernel"
    layer = built(own_layer(k)(), (4,))
    layer.trainable = False
    assert why_not(layer) == "not trainable"
