"""Weights that users or layers declare to be prunable."""

from smart_tf.layouts import Layout
from smart_tf.prunable.builtin import builtin_weights, dense
from smart_tf.prunable.weights import (
    PrunableWeight,
    held_as,
    holder,
    is_keras,
    is_variable,
)

_REGISTERED = {}


def register_prunable(cls, fn):
    """Teaches pruning which weights of a layer class to prune.

    The answer is complete: weights of the layer, or of layers inside of it, that `fn`
    leaves out are not pruned. Subclasses are covered too. The layers of a model are
    asked one by one, and the model is not: weights of its own belong in a layer.

    Args:
        cls: A layer class of Keras 3 or tf_keras.
        fn: Callable that takes a built layer and returns a list. Its entries are
            attribute names, variables, or pairs of one of these and a `Layout`.
            Without a layout, the last axis of a weight is taken for its outputs and
            the one before for its inputs.

    Raises:
        TypeError: If `cls` is not a layer class, or `fn` cannot be called.
    """
    if not isinstance(cls, type) or not any(map(is_keras, cls.__mro__)):
        raise TypeError(f"Argument `cls` must be a layer class. Received: cls={cls!r}")
    if not callable(fn):
        raise TypeError(f"Argument `fn` must be callable. Received: fn={fn!r}")
    _REGISTERED[cls] = fn


def declaration(layer):
    """Returns the callable that lists a layer's prunable weights, if it has one."""
    for cls in type(layer).__mro__:
        if cls in _REGISTERED:
            return lambda: _REGISTERED[cls](layer)
    return getattr(layer, "get_prunable_weights", None)


def declared_weights(layer, declared):
    """List of the `PrunableWeight`s of what a layer declares, checked.

    Args:
        layer: The layer.
        declared: What its declaration returns.

    Raises:
        TypeError: If that is something other than a list of variables.
        ValueError: If the layer does not hold one of them.
    """
    if not isinstance(declared, (list, tuple)):
        raise TypeError(
            f"The prunable weights of layer {layer.name!r} must be a list of variables "
            f"or names of attributes; an empty one for none. Received: {declared!r}"
        )
    return [_resolve(layer, entry) for entry in declared]


def _resolve(layer, entry):
    """Turns a declared entry into a `PrunableWeight`."""
    entry, layout = _entry_and_layout(layer, entry)
    variable = entry
    if isinstance(entry, str):
        _, held = held_as(layer, entry)
        variable = getattr(layer, entry, None) if held is None else held
    if not is_variable(variable):
        raise TypeError(
            f"The prunable weights of layer {layer.name!r} must be variables or names "
            f"of attributes that hold one. Received: {entry!r}"
        )
    owner, attribute = holder(layer, variable)
    if layout is None:
        # tfmot declares weights of built-in layers too: those are known better.
        known = builtin_weights(owner) if attribute != "item" else []
        layouts = [w.layout for w in known if w.variable is variable]
        layout = layouts[0] if layouts else _guess(layer, variable)
    layout.groups(len(variable.shape))  # Raises where the layout does not fit.
    return PrunableWeight(owner, attribute, layout)


def _entry_and_layout(layer, entry):
    if not isinstance(entry, tuple):
        return entry, None
    if len(entry) != 2 or not isinstance(entry[1], (Layout, type(None))):
        raise TypeError(
            f"The prunable weights of layer {layer.name!r} must be variables, names of "
            "attributes, or pairs of one of these and a `smart_tf.Layout`. "
            f"Received: {entry!r}"
        )
    return entry


def _guess(layer, variable):
    rank = len(variable.shape)
    if rank == 0:
        raise ValueError(
            f"The prunable weights of layer {layer.name!r} must have axes. "
            f"Received a scalar: {variable.name!r}"
        )
    return dense(rank) if rank > 1 else Layout(outputs=(0,), inputs=())
