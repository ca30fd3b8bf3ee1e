"""Layers whose channels are outputs of a model stay whole, unless they are named."""

import keras
import numpy as np
import pytest
from keras import layers

import smart_tf
from smart_tf import flavours
from smart_tf.channels import heads

ALONE = smart_tf.Channel(coupled=False)


def names(model):
    return {layer.name for layer in heads(model)}


def classifier(*after, name="model"):
    """input - body - head - more layers."""
    stack = [layers.Dense(16, name="body"), layers.Dense(4, name="head"), *after]
    return keras.Sequential([keras.Input((8,)), *stack], name=name)


def kernels(pruned):
    return {wrapper.layer.name for wrapper in flavours.wrappers(pruned)}


@pytest.mark.parametrize(
    "after",
    [
        (),
        (layers.Softmax(),),
        (layers.Dropout(0.5), layers.Reshape((2, 2)), layers.Activation("softmax")),
    ],
    ids=len,
)
def test_functions_behind_a_head_are_passed_over(after):
    assert names(classifier(*after)) == {"head"}


def test_a_head_in_a_nested_model_and_one_before_an_operator_are_found():
    inner = classifier(name="inner")
    x = keras.Input((8,))
    assert names(keras.Model(x, inner(x))) == {"head"}
    assert names(keras.Model(x, keras.ops.softmax(inner(x) * 2.0))) == {"head"}
    scaled = layers.Dense(4, name="last")(x) * np.ones(4, "float32")
    assert names(keras.Model(x, keras.ops.softmax(scaled))) == {"last"}


def test_every_output_has_its_head():
    x = keras.Input((8,))
    body = layers.Dense(16, name="body")(x)
    one, other = layers.Dense(3, name="one")(body), layers.Dense(5, name="other")(body)
    assert names(keras.Model(x, [one, layers.ReLU()(other)])) == {"one", "other"}
    assert names(keras.Model(x, {"a": body, "b": one})) == {"body", "one"}


def test_what_several_tensors_make_together_has_no_head():
    x = keras.Input((8,))
    one, other = layers.Dense(4, name="one")(x), layers.Dense(4, name="other")(x)
    assert names(keras.Model(x, one + other)) == set()
    assert names(keras.Model(x, layers.Dense(8)(x) + x)) == set()


def test_a_model_without_a_graph_has_no_heads():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = layers.Dense(4, name="head")

        def call(self, x):
            return self.head(x)

    model = Own()
    model(np.zeros((1, 8), "float32"))
    assert heads(model) == []
    assert kernels(smart_tf.prune(model, 0.5, ALONE)) == {"head"}


def test_they_stay_by_default_and_the_report_says_why():
    model = classifier()
    before = model.get_layer("head").kernel.numpy()
    pruned = smart_tf.prune(model, 0.5, ALONE, method="magnitude")
    assert kernels(pruned) == {"body"}
    reason = "its channels are outputs of the model, and `filters` does not name it"
    assert smart_tf.report(pruned).skipped == {"head": reason}
    final = smart_tf.strip_pruning(pruned)
    np.testing.assert_array_equal(final.get_layer("head").kernel.numpy(), before)
    assert not final.get_layer("body").kernel.numpy().all()


@pytest.mark.parametrize("filters", ["head|body", ["head", "body"], lambda layer: True])
def test_filters_that_name_them_prune_them(filters):
    pruned = smart_tf.prune(classifier(), 0.5, ALONE, filters=filters)
    assert kernels(pruned) == {"body", "head"}
    assert smart_tf.report(pruned).skipped == {}


def test_blocks_and_nm_prune_them_by_default():
    for structure in ("4x4", "unstructured", "2:4"):
        pruned = smart_tf.prune(classifier(), 0.5, structure)
        assert kernels(pruned) == {"body", "head"}


def test_a_model_with_nothing_else_says_what_to_do():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, name="head")])
    with pytest.raises(ValueError, match="'head': .*`filters` does not name it"):
        smart_tf.prune(model, 0.5, ALONE)
    assert kernels(smart_tf.prune(model, 0.5, ALONE, filters="head")) == {"head"}


def test_what_scales_and_shifts_behind_the_head_is_not_the_head():
    behind = [layers.BatchNormalization(), layers.PReLU(), layers.Softmax()]
    model = classifier(*behind)
    assert names(model) == {"head"}
    pruned = smart_tf.prune(model, 0.5, ALONE)
    assert not flavours.is_wrapper(pruned.get_layer("head"))
