"""What is refused, in which words, and that the model stays as it was."""

import keras
import numpy as np
import pytest
from keras import layers

import smart_tf
from smart_tf.flavours import wrappers
from tests.references import assert_same, mlp, weights


def limited():
    """A model with a constraint that must survive."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(16, kernel_constraint="max_norm", name="limited"),
            layers.Dense(4, name="last"),
        ]
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.limited = layers.Dense(16, kernel_constraint="max_norm")
        self.last = layers.Dense(4)

    def call(self, x):
        return self.last(self.limited(x))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 16), "float32"))
    return model


REFUSED = [
    ({"sparsity": 1.0}, ValueError, "`sparsity` must be in \\[0, 1\\)"),
    ({"sparsity": 1.3}, ValueError, "Received: sparsity=1.3"),
    ({"sparsity": -0.1}, ValueError, "`sparsity` must be in"),
    ({"sparsity": float("nan")}, ValueError, "`sparsity` must be in"),
    ({"sparsity": "0.5"}, TypeError, "`sparsity` must be a float"),
    ({"sparsity": True}, TypeError, "`sparsity` must be a float"),
    ({"sparsity": None}, ValueError, "`sparsity` must be given"),
    ({"sparsity": 0.7, "structure": "2:4"}, ValueError, "leave argument `sparsity`"),
    ({"structure": "5:4"}, ValueError, "`structure` must be"),
    ({"structure": "blocks"}, ValueError, "`structure` must be"),
    ({"structure": "0x8"}, ValueError, "`structure` must be"),
    ({"structure": 16}, TypeError, "`structure` must be"),
    ({"method": "best"}, ValueError, "`method` must be one of"),
    ({"method": 3}, TypeError, "`method` must be"),
    ({"filters": ["nowhere"]}, ValueError, "names layers that the model does not have"),
    ({"filters": 3}, TypeError, "`filters` must be"),
    ({"filters": layers.Dense(4)}, TypeError, "`filters` must be.*a list of layers"),
    ({"filters": "["}, ValueError, "`filters` must be a regular.*unterminated"),
    ({"filters": "nowhere"}, ValueError, "left out by `filters`"),
    ({"budget": "latency"}, ValueError, "`budget` must be"),
    ({"budget": lambda weight: "dear"}, ValueError, "`budget` must give a number"),
    ({"budget": lambda weight: [1.0, 2.0, 3.0]}, ValueError, "of the shape"),
    ({"max_layer_sparsity": 0.2}, ValueError, "`max_layer_sparsity` must be between"),
    ({"max_layer_sparsity": 1.5}, ValueError, "`max_layer_sparsity` must be between"),
    ({"max_layer_sparsity": "all"}, TypeError, "`max_layer_sparsity` must be a float"),
    ({"schedule": "slow"}, TypeError, "`schedule` must be a `TemperatureSchedule`"),
    ({"sparsity": 0.99, "structure": "16x16"}, ValueError, "must leave every kernel"),
]


def refuses(model, arguments, error, words):
    before, cls = weights(model), type(model)
    constraints = [v.constraint for v in model.trainable_variables]
    parts = list(model.layers)
    with pytest.raises(error, match=words):
        smart_tf.prune(model, **({"sparsity": 0.5, "structure": "4x4"} | arguments))
    assert_same(before, weights(model))
    assert [v.constraint for v in model.trainable_variables] == constraints
    assert model.layers == parts and type(model) is cls


@pytest.mark.parametrize("arguments,error,words", REFUSED, ids=[r[-1] for r in REFUSED])
def test_prune_refuses_and_leaves_the_model_as_it_was(arguments, error, words):
    refuses(limited(), arguments, error, words)


def test_a_subclassed_model_is_left_as_it_was_and_can_be_pruned_after():
    model = subclassed()
    for arguments, error, words in REFUSED:
        refuses(model, arguments, error, words)
    assert len(wrappers(smart_tf.prune(model, 0.5, "4x4"))) == 2


class OwnConstructor(keras.Model):
    """A graph model whose clone would be a plain Functional one."""

    def __init__(self, width):
        x = keras.Input((16,))
        constraint = keras.constraints.MaxNorm(1.0)
        dense = layers.Dense(width, kernel_constraint=constraint)
        super().__init__(x, layers.Dense(4)(dense(x)))

    def train_step(self, data):
        raise NotImplementedError


def test_a_model_that_a_clone_would_not_be_is_refused():
    model = OwnConstructor(8)
    constraint = model.layers[1].kernel.constraint
    with pytest.raises(ValueError, match="lose its.*train_step"):
        smart_tf.prune(model, 0.5, "4x4")
    assert model.layers[1].kernel.constraint is constraint


def test_unbuilt_models_are_refused():
    with pytest.raises(ValueError, match="must be built.*Received"):
        smart_tf.prune(keras.Sequential([layers.Dense(4)]), 0.5, "4x4")
    with pytest.raises(ValueError, match="must be built.*Received"):
        smart_tf.prune(Subclassed(), 0.5, "4x4")


@pytest.mark.parametrize("call", [smart_tf.report, smart_tf.strip_pruning])
def test_wrappers_that_are_not_built_are_refused(call):
    wrapper = smart_tf.prune(layers.Dense(4), 0.5, "4x4")
    for model in (wrapper, keras.Sequential([wrapper])):
        with pytest.raises(ValueError, match="`model` must be built.*Received"):
            call(model)


def parts_of(model):
    first = model.layers[0]
    return [first, keras.Model(model.inputs, first.output)]


def test_a_part_of_a_pruned_model_is_not_stripped_before_the_freeze():
    model = smart_tf.prune(mlp(), 0.5, "4x4")
    before = weights(model)
    for part in parts_of(model):
        with pytest.raises(
            ValueError, match="must be the whole model.*'last'.*missing"
        ):
            smart_tf.strip_pruning(part)
    assert_same(before, weights(model))
    smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 1)).ranking.freeze()
    for part in parts_of(model):
        assert not wrappers(smart_tf.strip_pruning(part))


def test_parts_that_are_ranked_by_themselves_are_stripped():
    """Nothing of the rest is needed for patterns of a layer's own."""
    model = smart_tf.prune(mlp(), structure="2:4")
    for part in parts_of(model):
        assert not wrappers(smart_tf.strip_pruning(part))


def test_pruned_models_are_not_pruned_again():
    model = smart_tf.prune(mlp(), 0.5, "4x4")
    with pytest.raises(ValueError, match="pruning wrappers already.*strip_pruning"):
        smart_tf.prune(model, 0.5, "4x4")
    with pytest.raises(ValueError, match="wrapped for pruning already"):
        smart_tf.PrunableLayer(model.layers[0], "4x4", 0.5)


def test_a_model_without_kernels_says_what_it_has():
    model = keras.Sequential(
        [keras.Input((4,)), layers.BatchNormalization(name="norm")]
    )
    with pytest.raises(ValueError, match="'norm': no kernel"):
        smart_tf.prune(model, 0.5, "4x4")


@pytest.mark.parametrize(
    "wrong",
    [None, "model", np.zeros(3), object()],
    ids=["none", "name", "array", "object"],
)
def test_what_is_no_model_is_refused(wrong):
    for call in (
        lambda m: smart_tf.prune(m, 0.5),
        smart_tf.strip_pruning,
        smart_tf.report,
    ):
        with pytest.raises(TypeError, match="Argument `model` must be a Keras model"):
            call(wrong)


def test_a_wrapper_around_nothing_prunable_is_refused_when_it_is_built():
    model = keras.Sequential([smart_tf.PrunableLayer(layers.ReLU(), "4x4", 0.5)])
    with pytest.raises(ValueError, match="no weights that can be pruned"):
        model.build((None, 4))


class Mixes(layers.Layer):
    """Rewrites its kernel in its call, in training."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), name="kernel")

    def call(self, x, training=False):
        if training:
            self.kernel.assign(self.kernel / keras.ops.norm(self.kernel))
        return x @ self.kernel

    def get_prunable_weights(self):
        return [self.kernel]


@pytest.mark.filterwarnings("ignore:A model with pruning wrappers is being trained")
def test_a_layer_that_assigns_to_its_masked_kernel_is_refused():
    model = keras.Sequential([keras.Input((8,)), Mixes(name="mixes")])
    model = smart_tf.prune(model, 0.5, "4x4")
    kernel = model.layers[0].layer.kernel
    before = kernel.numpy()
    model(np.ones((2, 8), "float32"))
    with pytest.raises(ValueError, match="'mixes' must not assign.*filters.*kernel'"):
        model(np.ones((2, 8), "float32"), training=True)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="'mixes' must not assign"):
        model.fit(np.ones((2, 8)), np.ones((2, 8)), verbose=0)
    np.testing.assert_array_equal(before, kernel.numpy())


@pytest.mark.parametrize(
    "declare",
    [
        lambda layer: None,
        lambda layer: layer.mixing,
        lambda layer: "mixing",
        lambda layer: [("mixing", "outputs last")],
        lambda layer: [("mixing", smart_tf.Layout((1,), (0,)), 3)],
    ],
    ids=["nothing", "variable", "name", "no_layout", "triple"],
)
def test_declarations_that_are_no_list_of_weights_are_refused(declare):
    class Declares(layers.Layer):
        def build(self, shape):
            self.mixing = self.add_weight(shape=(shape[-1], 8), name="mixing")

        def get_prunable_weights(self):
            return declare(self)

    layer = Declares(name="mine")
    layer.build((None, 8))
    with pytest.raises(TypeError, match="of layer 'mine' must be .*Received"):
        smart_tf.prunable.prunable_weights(layer)


@pytest.mark.parametrize(
    "arguments,error,words",
    [
        ({"pretrain_epochs": -1}, ValueError, "`pretrain_epochs` must be >= 0"),
        ({"search_epochs": 0}, ValueError, "`search_epochs` must be positive"),
        ({"search_epochs": -2}, ValueError, "`search_epochs` must be positive"),
        ({"search_epochs": np.nan}, ValueError, "`search_epochs` must be positive"),
        ({"search_epochs": "all"}, TypeError, "`search_epochs` must be a number"),
        ({"pretrain_epochs": None}, TypeError, "`pretrain_epochs` must be a number"),
        ({"schedule": "exponential"}, TypeError, "`schedule` must be"),
        (
            {"schedule": smart_tf.TemperatureSchedule(0, 5), "search_epochs": 2},
            ValueError,
            "either `schedule`, or epochs",
        ),
        (
            {"schedule": smart_tf.TemperatureSchedule(0, 5), "final_temperature": 0.1},
            ValueError,
            "either `schedule`, or epochs and temperatures",
        ),
    ],
    ids=str,
)
def test_the_callback_refuses_arguments(arguments, error, words):
    with pytest.raises(error, match=words) as caught:
        smart_tf.SmartPruningCallback(**arguments)
    assert "Received" in str(caught.value)
