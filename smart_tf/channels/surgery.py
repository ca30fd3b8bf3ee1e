"""`shrink`: the same model without the channels that do nothing."""

import warnings

import numpy as np

from smart_tf import flavours
from smart_tf.channels.graph import trace
from smart_tf.rewrite import parts, rewrite


def shrink(model):
    """The model with its dead channels removed: the same outputs from less work.

    Dead is a channel that carries the same value whatever the input, where that value
    is zero or can move into a bias, and a channel that nothing reads. Who zeroed it
    does not matter: `smart_tf`, tfmot, or a mask of your own.

    Example:

    ```python
    final = smart_tf.strip_pruning(pruned)
    small = smart_tf.shrink(final)
    ```

    Args:
        model: Built Functional or Sequential model of Keras 3 or tf_keras, without
            pruning wrappers.

    Returns:
        New model of the same class with variables of its own, the same layer names,
        and narrower layers; not compiled. Where nothing can be removed it is a copy,
        and a warning says so.

    Raises:
        ValueError: If the model has pruning wrappers, or no graph of layers.
    """
    if flavours.wrappers(model):
        raise ValueError(
            "Argument `model` has pruning wrappers: call `smart_tf.strip_pruning` on "
            f"it first. Received: model={model!r}"
        )
    flow = trace(model)
    alive = surviving(flow)
    if alive.all():
        warnings.warn(
            f"No channel of model '{model.name}' can be removed: none is zero in all "
            "the layers that share it.",
            stacklevel=2,
        )
    return _narrow(model, flow, alive)


def surviving(flow):
    """Boolean array over the ids of a flow: which channels `shrink` leaves.

    Of every axis at least one channel stays.
    """
    roots = flow.roots()
    alive = flow.needed(roots)
    for axis in flow.axes.values():
        if not alive[axis.ids].any():
            alive[roots == roots[axis.ids[0]]] = True
    return alive


def _narrow(model, flow, alive):
    """A copy of a model without the channels that are not alive."""
    flavour = flavours.of(model)
    copies = {}

    def count(ids):
        return int(alive[ids].sum())

    def narrow(layer):
        if id(layer) not in copies:
            settings = flow.resized.get(id(layer), {})
            changes = {
                key: value(count)
                for key, value in settings.items()
                if value(count) != value(len)
            }
            copies[id(layer)] = flavour.copy_layer(layer, changes)
        return copies[id(layer)]

    def input_shapes(inner):
        signals = flow.inputs.get(id(inner), ())
        return [_left(signal, alive) for signal in signals]

    small = rewrite(model, narrow, input_shapes)
    values = _values(flow, alive)
    for layer in filter(lambda layer: layer.weights, parts(model)):
        for old, new in zip(layer.weights, copies[id(layer)].weights, strict=True):
            new.assign(values(old))
    return small


def _left(signal, alive):
    """The shape of a signal when it is narrower."""
    kept = alive[signal.ids]
    return tuple(
        size if n == 1 else int(kept.any(axis=_others(axis, kept.ndim)).sum())
        for axis, (size, n) in enumerate(zip(signal.shape, kept.shape, strict=True))
    )


def _others(axis, rank):
    return tuple(a for a in range(rank) if a != axis)


def _values(flow, alive):
    """Function from a variable to the value that its narrower copy gets."""
    axes, added = {}, {}
    for axis in flow.axes.values():
        axes.setdefault(id(axis.variable), []).append(axis)
    for fold in flow.folds:
        removed = ~alive[fold.ids]
        added[id(fold.bias)] = fold.terms[removed].sum(axis=0)

    def values(variable):
        value = np.asarray(variable)
        if id(variable) in added:
            value = (value + added[id(variable)]).astype(value.dtype)
        for axis in axes.get(id(variable), ()):
            value = np.compress(alive[axis.ids], value, axis.axis)
        return value

    return values
