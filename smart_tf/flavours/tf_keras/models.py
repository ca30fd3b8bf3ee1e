"""Taking `tf_keras` models apart, and cloning them with other layers."""

import tensorflow as tf
import tf_keras as keras

from smart_tf.flavours.keras3.models import activations, initializers

TRACKING_ATTRIBUTES = ("_self_tracked_trackables", "_metrics", "_obj_reference_counts")
"""Where a layer keeps its own book of its parts."""


def is_model(layer):
    """Whether it is a model, and not a layer."""
    return isinstance(layer, keras.Model)


def is_graph_model(model):
    """Whether a model is made of a graph of layers, and can be cloned."""
    return isinstance(model, keras.Sequential) or model._is_graph_network


def clone_graph_model(model, replace, input_shapes=None):
    """As `smart_tf.flavours.keras3.clone_graph_model`."""
    inputs = None
    if input_shapes and input_shapes != [tuple(x.shape)[1:] for x in model.inputs]:
        inputs = [
            keras.Input(shape, dtype=x.dtype, name=x.node.layer.name)
            for x, shape in zip(model.inputs, input_shapes, strict=True)
        ]
    return keras.models.clone_model(model, inputs, clone_function=replace)


def copy_layer(layer, changes):
    """As `smart_tf.flavours.keras3.copy_layer`."""
    if isinstance(layer, keras.layers.Lambda):
        return layer
    config = layer.get_config()
    own = activations(layer, config) | initializers(layer, config)
    return type(layer).from_config({**config, **own, **changes})


def calls(model):
    """The calls in a graph model, in order: `(layer, args, kwargs, outputs)`."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.is_input:
                outputs = tf.nest.flatten(node.outputs)
                yield node.layer, node.call_args, node.call_kwargs, outputs


def inputs_of(model):
    """As `smart_tf.flavours.keras3.inputs_of`."""
    return model._nested_inputs


def set_attribute(model, name, value):
    """Sets an attribute of a model, and keeps the order of its layers and weights."""
    old, tracked = getattr(model, name), list(model._self_tracked_trackables)
    setattr(model, name, value)
    new = getattr(model, name)
    places = {id(one): place for place, one in enumerate(tracked)}
    if id(old) in places and id(new) not in places:
        others = [one for one in model._self_tracked_trackables if one is not new]
        others.insert(places[id(old)], new)
        model._self_tracked_trackables[:] = others


def replace_items(container, changes):
    """A copy: TensorFlow does not save lists once an item was replaced."""
    new = container.copy()
    new = dict(new) if isinstance(new, dict) else list(new)
    for key, item in changes.items():
        new[key] = item
    return new


def set_tracked_layers(model, replaced):
    """Nothing to do: setting an attribute untracks what it held."""
