"""The two Keras flavours: everything in which they differ is in this folder.

Both packages have the same names: the wrapper `PrunableLayer`, the optimizer
`PruningOptimizer`, the learning rate's `RestartedSchedule`, and what taking a model
apart needs (`is_graph_model`, `clone_graph_model`, `set_attribute`, ...).
"""

import importlib

import keras

from smart_tf.flavours import keras3


def of(layer):
    """The flavour's package for a layer or model.

    `tf_keras` (and with it tfmot) is loaded only when a `tf_keras` object comes.

    Args:
        layer: A `keras.layers.Layer` or `tf_keras.layers.Layer`.

    Returns:
        Package `smart_tf.flavours.keras3` or `smart_tf.flavours.tf_keras`.

    Raises:
        TypeError: If `layer` is neither.
    """
    if isinstance(layer, keras.Operation):  # layers, and `x + y` in a graph
        return keras3
    if any(c.__module__.startswith("tf_keras.") for c in type(layer).__mro__):
        return importlib.import_module("smart_tf.flavours.tf_keras")
    raise TypeError(
        "Argument `model` must be a Keras model or layer (keras or tf_keras). "
        f"Received: {layer!r} (of type {type(layer).__name__})"
    )


def wrappers(model):
    """The pruning wrappers in a model (or a single wrapper), each once, in order.

    Raises:
        TypeError: If `model` is neither.
    """
    of(model)
    found = {id(k): k for k in model._flatten_layers() if is_wrapper(k)}
    return list(found.values())


def is_wrapper(layer):
    """Whether a layer is a `PrunableLayer` of either flavour."""
    return getattr(type(layer), "is_pruning_wrapper", False)
