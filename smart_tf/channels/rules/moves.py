"""Layers and operators that move, repeat, pool or join entries."""

import math

import numpy as np

from smart_tf.channels import values
from smart_tf.channels.rules.registry import follows, kind, not_followed, rule
from smart_tf.channels.signal import Signal, on_axis


@rule(
    *(f"{kind}pooling{n}d" for kind in ("max", "average") for n in (1, 2, 3)),
    *(f"upsampling{n}d" for n in (1, 2, 3)),
    *(f"cropping{n}d" for n in (1, 2, 3)),
    *("adaptiveaveragepooling2d", "adaptivemaxpooling2d"),
)
@follows
def pool(flow, call, axis, ids, constant):
    """Channels stay where they are; so do those that are the same everywhere."""
    return on_axis(call.shape, axis, ids, constant, call.signals[0].makers)


@rule("zeropadding1d", "zeropadding2d", "zeropadding3d", "resizing")
@follows
def zero_padding(flow, call, axis, ids, constant):
    """What is filled in makes a constant other than 0 differ from place to place."""
    if getattr(call.layer, "fill_value", 0.0):
        return not_followed(flow, call, "what it fills in is not zero")
    constant = values.only_zeros(constant)
    return on_axis(call.shape, axis, ids, constant, call.signals[0].makers)


@rule(
    *(f"global{kind}pooling{n}d" for kind in ("max", "average") for n in (1, 2, 3)),
)
@follows
def global_pool(flow, call, axis, ids, constant):
    """The axis of the channels may move, where positions are dropped."""
    axis = axis if len(call.shape) > 1 else -1
    return on_axis(call.shape, axis, ids, constant, call.signals[0].makers)


@rule("repeatvector")
@follows
def repeat(flow, call, axis, ids, constant):
    """Channels are the last axis of what is repeated."""
    return on_axis(call.shape, -1, ids, constant, call.signals[0].makers)


@rule("mean", "reducemean", "max", "reducemax", "sum", "reducesum")
def reduce(flow, call):
    """Over positions, not over the axis of the channels."""
    signal, axis = call.signals[0], call.option("axis", 1)
    if getattr(call.layer, "initial", None) is not None:
        return not_followed(flow, call, "it has a value to begin with")
    axes = {a % (signal.rank + 1) - 1 for a in np.ravel([] if axis is None else axis)}
    if not axes or any(a < 0 or signal.ids.shape[a] != 1 for a in axes):
        return not_followed(flow, call, "it reduces over the channels")
    if any(signal.constant.shape[a] != 1 for a in axes):
        return not_followed(flow, call, "its constants differ from place to place")
    dropped = () if call.option("keepdims", 2) else tuple(axes)
    out = signal.moved(call.shape, lambda array: array.squeeze(dropped))
    if kind(call.layer) in ("sum", "reducesum"):
        out.constant = values.only_zeros(out.constant)
    return out


@rule("permute")
def permute(flow, call):
    """As `transpose`, with axes that leave the batch out."""
    return _transposed(flow, call, (0, *call.layer.dims))


@rule("transpose")
def transpose(flow, call):
    """The axis of the channels moves, but for the batch."""
    order = call.option("axes", 1)
    return _transposed(flow, call, call.option("perm", 1) if order is None else order)


def _transposed(flow, call, order):
    if order is None or order[0] != 0:
        return not_followed(flow, call, "it moves the batch")
    order = [axis - 1 for axis in order[1:]]
    return call.signals[0].moved(call.shape, lambda array: array.transpose(order))


@rule("expanddims", "squeeze")
def change_rank(flow, call):
    """The axis of the channels moves, where others come or go."""
    signal, axis = call.signals[0], call.option("axis", 1)
    rank = max(signal.rank, len(call.shape)) + 1
    axes = [] if axis is None else [a % rank - 1 for a in np.ravel(axis).tolist()]
    if not axes or -1 in axes:
        return not_followed(flow, call, "it may change the batch")
    change = np.expand_dims if kind(call.layer) == "expanddims" else np.squeeze
    return signal.moved(call.shape, lambda array: change(array, tuple(axes)))


@rule("flatten", "reshape")
def reshape(flow, call):
    """Every entry is followed to its new place; the shape is changed with the cut."""
    layer, signal = call.layer, call.signals[0]
    key = next((k for k in ("target_shape", "newshape") if hasattr(layer, k)), None)
    if None in call.shape or None in signal.shape:
        return not_followed(flow, call, "a size is unknown")
    if math.prod(call.shape) != math.prod(signal.shape):
        return not_followed(flow, call, "it moves the batch")
    if key is None and kind(layer) == "reshape":
        return not_followed(flow, call, "it names the number of channels")

    def move(array):
        array = np.broadcast_to(array, signal.shape)
        if getattr(layer, "data_format", None) == "channels_first":
            array = np.moveaxis(array, 0, -1)  # as `Flatten` does
        return array.reshape(call.shape)

    out = _one_axis(flow, signal.moved(call.shape, move))
    varying = [axis for axis, n in enumerate(out.ids.shape) if n != 1]
    if varying and key is not None:
        [axis] = varying
        ids, shape = out.ids.ravel(), call.shape

        def resized(count):
            left = (*shape[:axis], count(ids), *shape[axis + 1 :])
            return left if key == "target_shape" else (-1, *left)

        flow.resize(layer, **{key: resized})
    return out


def _one_axis(flow, signal):
    """The signal with channels along one axis; entries on others go together."""
    varying = [axis for axis, n in enumerate(signal.ids.shape) if n != 1]
    others = tuple(varying[:-1])
    if not others:
        return signal
    first = signal.ids
    for axis in others:
        first = first.take([0], axis)
    flow.join(signal.ids, first)
    low = signal.constant.min(axis=others, keepdims=True)
    high = signal.constant.max(axis=others, keepdims=True)
    return Signal(
        signal.shape, first, np.where(low == high, low, np.nan), signal.makers
    )


@rule("concatenate", "concat")
def concatenate(flow, call):
    """Channels stand one after the other, or side by side on another axis."""
    signals, rank = call.signals, len(call.shape)
    if any(np.ndim(a) > 0 for a in call.flat if not isinstance(a, Signal)):
        return not_followed(flow, call, "an array of numbers has fixed channels")
    axis = call.option("axis", 1)
    axis = None if axis is None else axis % (rank + 1) - 1
    if axis is None or axis < 0 or any(signal.rank != rank for signal in signals):
        return not_followed(flow, call, "it joins along the batch")
    makers = tuple(dict.fromkeys(m for s in signals for m in s.makers))
    if any(n != 1 for s in signals for a, n in enumerate(s.ids.shape) if a != axis):
        return _stacked(flow, call, axis, makers)
    if any(signal.shape[axis] is None for signal in signals):
        return not_followed(flow, call, "a size is unknown")
    parts = [signal.vector(axis) for signal in signals]
    if None in parts:
        return not_followed(flow, call)
    ids, constant = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return on_axis(call.shape, axis, ids, constant, makers)


def _stacked(flow, call, axis, makers):
    """Side by side along an axis that is not that of the channels."""
    first, *others = call.signals
    if any(s.ids.shape[axis] != 1 or s.constant.shape[axis] != 1 for s in call.signals):
        return not_followed(flow, call)
    ids, constant = first.ids, first.constant
    for other in others:
        flow.join(ids, other.ids)
        ids = np.maximum(ids, other.ids)
        constant = np.where(constant == other.constant, constant, np.nan)
    return Signal(call.shape, *np.broadcast_arrays(ids, constant), makers)
