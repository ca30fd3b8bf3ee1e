"""`shrink`: the same model without the channels that do nothing."""

import warnings

import numpy as np

from smart_tf import flavours
from smart_tf.channels.graph import trace
from smart_tf.rewrite import rewrite


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
        and narrower layers; compile it before training. Where nothing can be removed
        it is a copy, and a warning says so.

    Raises:
        ValueError: If the model has pruning wrappers, or no graph of layers.
    """
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
            copies[id(layer)] = layer, _copy(layer, changes)
        return copies[id(layer)][1]

    def input_shapes(inner):
        signals = flow.inputs.get(id(inner))  # None for one that is not followed
        return signals and [_left(signal, alive) for signal in signals]

    small = rewrite(model, narrow, input_shapes)
    values = _values(flow, alive)
    for layer, copy in copies.values():
        weights = getattr(layer, "weights", ())  # an operator has none
        for old, new in zip(weights, getattr(copy, "weights", ()), strict=True):
            new.assign(values(old))
        if weights and hasattr(copy, "finalize_state"):
            copy.finalize_state()  # `Normalization` computes with copies of its weights
    return small


def _copy(layer, changes):
    try:
        return flavours.of(layer).copy_layer(layer, changes)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"Layer '{layer.name}' of class {type(layer).__name__} cannot be copied: "
            "`from_config` has to take what `get_config` returns"
            + (f", with other values for {sorted(changes)}" if changes else "")
            + f". It raised: {error}"
        ) from error


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
    axes = {}
    for axis in flow.axes.values():
        axes.setdefault(id(axis.variable), []).append(axis)

    def values(variable):
        value, added = np.asarray(variable), flow.added(variable, ~alive)
        if added is not None:
            value = (value + added).astype(value.dtype)
        for axis in axes.get(id(variable), ()):
            value = np.compress(alive[axis.ids], value, axis.axis)
        return value

    return values
