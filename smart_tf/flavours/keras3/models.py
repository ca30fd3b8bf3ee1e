"""Taking Keras 3 models apart, and cloning them with other layers."""

import contextlib
import inspect

import keras
import numpy as np
from keras.src.models.functional import Functional

from smart_tf.optimizer import fresh_copy

TRACKING_ATTRIBUTES = ("_layers", "_metrics", "_tracker")
"""Where a layer keeps its own book of its parts."""


_OWN = ("call", "train_step", "test_step", "predict_step", "compute_loss")
"""Methods that a subclass of a graph model may have of its own."""


def is_model(layer):
    """Whether it is a model, and not a layer."""
    return isinstance(layer, keras.Model)


def is_graph_model(model):
    """Whether a model is made of a graph of layers, and can be cloned."""
    return isinstance(model, (keras.Sequential, Functional))


def clone_graph_model(model, replace, input_shapes=None):
    """Clones a Functional or Sequential model around `replace(layer)`.

    Args:
        model: The model.
        replace: Function from a layer to the one that takes its place.
        input_shapes: List of the shapes that the inputs get, without the batch, or
            None for those that they have.

    Raises:
        ValueError: If the clone would silently behave differently.
    """
    with _not_compiled(model):
        clone = _clone(model, replace, input_shapes)
    lost = [n for n in _OWN if getattr(type(clone), n) is not getattr(type(model), n)]
    if lost:
        raise ValueError(
            f"Model '{model.name}' cannot be cloned as a {type(model).__name__}, since "
            "the constructor of this class makes the layers, and a plain clone would "
            f"lose its {lost}. Give the class the constructor of `keras.Model`, with "
            "`inputs` and `outputs`, or one with `*args, **kwargs`. "
            f"Received: model={model!r}"
        )
    plain = type(model).compile is keras.Model.compile
    if model.compiled and plain and input_shapes is None:
        _compile_alike(clone, model)
    return clone


@contextlib.contextmanager
def _not_compiled(model):
    """Keeps `clone_model` from a config of the loss: no config can name a `lambda`."""
    compiled, model.compiled = model.compiled, False
    try:
        yield
    finally:
        model.compiled = compiled


def _compile_alike(clone, model):
    """Compiles with the loss and metrics of a model, and an optimizer of its own."""
    settings = dict(model._compile_config.config)
    if isinstance(settings["optimizer"], keras.optimizers.Optimizer):
        settings["optimizer"] = fresh_copy(settings["optimizer"])
    clone.compile(**settings)


def _clone(model, replace, input_shapes):
    tensors = model.inputs
    shapes = input_shapes or [x.shape[1:] for x in tensors]
    if isinstance(model, keras.Sequential):
        same = shapes == [x.shape[1:] for x in tensors]
        inputs = None if same else keras.Input(shapes[0], dtype=tensors[0].dtype)
        return keras.models.clone_model(
            model, input_tensors=inputs, clone_function=replace
        )
    # Left to itself, `clone_model` names the inputs anew.
    inputs = [
        keras.Input(
            batch_shape=(x.shape[0], *shape),
            dtype=x.dtype,
            sparse=x.sparse,
            name=x._keras_history.operation.name,
        )
        for x, shape in zip(tensors, shapes, strict=True)
    ]
    inputs = keras.tree.pack_sequence_as(model.input, inputs)
    return keras.models.clone_model(model, input_tensors=inputs, clone_function=replace)


def copy_layer(layer, changes):
    """A layer of the same class and name, not built, with some of its config changed.

    An operator or `Lambda`, which has nothing but its function, is itself returned.

    Args:
        layer: The layer, or an operator in a graph.
        changes: Dict from keys of its config to new values.
    """
    plain = not isinstance(layer, keras.layers.Layer)
    if isinstance(layer, keras.layers.Lambda) or (plain and not changes):
        return layer
    config = layer.get_config()
    own = activations(layer, config) | initializers(layer, config)
    return type(layer).from_config({**config, **own, **changes})


def activations(layer, config):
    """The activations in a config as what they are: no config can name a `lambda`."""
    names = [k for k in ("activation", "recurrent_activation") if k in config]
    found = {name: getattr(layer, name, None) for name in names}
    return {k: f for k, f in found.items() if inspect.isfunction(f)}


def initializers(layer, config):
    """Zeros for what starts at an array: it is of the shape that the layer had."""
    found = {k: getattr(layer, k, None) for k in config if k.endswith("_initializer")}
    return {k: "zeros" for k, f in found.items() if np.ndim(getattr(f, "value", 0)) > 0}


def calls(model):
    """The calls in a graph model, in order: `(layer, args, kwargs, outputs)`."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.is_input:
                arguments = node.arguments
                yield node.operation, arguments.args, arguments.kwargs, node.outputs


def inputs_of(model):
    """The inputs of a graph model, nested as it was made with them."""
    return getattr(model, "_inputs_struct", None)  # a `Sequential` has one input


def set_attribute(model, name, value):
    """Sets an attribute of a built model, without the tracking of a second layer."""
    object.__setattr__(model, name, value)


def replace_items(container, changes):
    """Replaces items of a list or dict of layers, in place."""
    for key, item in changes.items():
        container[key] = item
    return container


def set_tracked_layers(model, replaced):
    """Puts the new layers where the old ones stood in the model's own list."""
    for layer in list(model._layers):
        new = replaced.get(id(layer), layer)
        if new is not layer:
            model._tracker.replace_tracked_value("layers", layer, new)
