"""Finds the groups of channels of a model."""

import math

import numpy as np

from smart_tf.channels.flow import STAYS
from smart_tf.channels.graph import trace
from smart_tf.channels.groups import ChannelGroup, ChannelGroups, MadeSlices


def find_groups(model, round_to=1, accepts=None):
    """The groups of channels of a model that must go together.

    Example:

    >>> print(smart_tf.channels.find_groups(model))

    Args:
        model: Built Functional or Sequential model of Keras 3 or tf_keras.
        round_to: Integer >= 1, widths that are cut stay multiples of it.
        accepts: Optional function from a layer with a kernel to whether its channels
            may go.

    Returns:
        `ChannelGroups`.

    Raises:
        ValueError: If the model has no graph of layers.
    """
    accepts = accepts or (lambda layer: True)
    flow = trace(model)
    roots = flow.roots()
    free = _free(model, flow, roots, accepts)
    groups, index = _grouped(flow, roots, free, round_to)
    slices = _slices(flow, index)
    reasons = _reasons(flow, index, accepts)
    return ChannelGroups(groups, slices, reasons, flow, index)


def _free(model, flow, roots, accepts):
    """Boolean over ids: channels that zeros in their makers make removable.

    Tried out on the model itself, with every second channel at zero.
    """
    made = np.zeros(len(roots), bool)
    for maker in flow.makers:
        for variable, _, ids in maker.weights:
            if maker.is_live and getattr(variable, "trainable", True):
                made[roots[ids]] = True
    for maker in flow.makers:
        chosen = maker.is_norm or accepts(maker.layer)  # norms follow their kernels
        for _, _, ids in maker.weights:
            if not (maker.layer.trainable and chosen):
                made[roots[ids]] = False
    made[STAYS] = False
    free = made[roots]
    for parity in (0, 1):
        chosen = _every_second(flow, roots, free, parity)
        rest = trace(model, _zeroed(flow, chosen))
        free &= ~(chosen & rest.needed(rest.roots()))
    return free


def _every_second(flow, roots, free, parity):
    """Boolean over ids: free channels at even or odd places of their makers."""
    chosen = np.zeros(len(roots), bool)
    for maker in flow.makers:
        for _, _, ids in maker.weights:
            different = np.unique(roots[ids])
            chosen[different[parity::2]] = True
    return chosen[roots] & free


def _zeroed(flow, chosen):
    """Dict from `id(variable)` to its value with the chosen channels at zero."""
    zeroed = {}
    for maker in filter(lambda maker: maker.is_live, flow.makers):
        for variable, axis, ids in maker.weights:
            value = zeroed.get(id(variable))
            value = flow.value(variable).copy() if value is None else value
            np.moveaxis(value, axis, 0)[chosen[ids]] = 0.0
            zeroed[id(variable)] = value
    return zeroed


def _grouped(flow, roots, free, round_to):
    """The groups, and int64 over ids: the number of each channel, or -1."""
    axes = list(flow.axes.values())
    made = {(id(v), axis) for m in flow.makers for v, axis, _ in m.weights}
    whole = {id(v) for m in flow.makers if not m.rounds for v, _, _ in m.weights}
    index, groups, start = np.full(len(roots), -1), [], 0
    for key, found in _alike(axes, roots, free).items():
        channels = np.arange(start, start + len(found))
        index[found], start = channels, start + len(found)
        through = [(axes[number], count) for number, count in key]
        makers = [(a, n) for a, n in through if (id(a.variable), a.axis) in made]
        unit = _unit(round_to, min(count for _, count in makers), len(found))
        if any(id(axis.variable) in whole for axis, _ in makers):
            unit = 1
        names = [_weight_name(a.layer, a.variable) for a, _ in makers]
        others = [a for a, n in through if (a, n) not in makers]
        readers = [_weight_name(a.layer, a.variable) for a in others]
        groups.append(ChannelGroup(channels, unit, tuple(names), tuple(readers)))
    return groups, index[roots]


def _alike(axes, roots, free):
    """Channels that run through the same axes, each as often: at least two of them.

    Returns:
        Dict from tuples of `(number of the axis, count)` to lists of channels.
    """
    through = {}
    for number, axis in enumerate(axes):
        ids = roots[axis.ids]
        found, counts = np.unique(ids[free[ids]], return_counts=True)
        for channel, count in zip(found.tolist(), counts.tolist(), strict=True):
            through.setdefault(channel, []).append((number, count))
    alike = {}
    for channel in sorted(through):
        alike.setdefault(tuple(through[channel]), []).append(channel)
    return {key: found for key, found in alike.items() if len(found) > 1}


def _unit(round_to, often, size):
    """In what steps to cut a group whose channels come `often` times on an axis.

    A group that is too small to be cut well in such steps takes finer ones.
    """
    unit = round_to // math.gcd(round_to, often)
    while unit > 1 and size < 3 * unit:
        unit //= 2
    return unit


def _slices(flow, index):
    slices = []
    for maker in filter(lambda maker: maker.is_live, flow.makers):
        for variable, axis, ids in maker.weights:
            channels = index[ids]
            if (channels >= 0).any():
                slices.append(
                    MadeSlices(
                        maker.layer,
                        variable,
                        axis,
                        channels,
                        in_search=not maker.is_normalised,
                        is_kernel=not maker.is_norm and len(variable.shape) > 1,
                    )
                )
    return slices


def _reasons(flow, index, accepts):
    """Why the channels of a kernel stay."""
    reasons = {}
    for maker in flow.makers:
        variable, _, ids = maker.weights[0]
        if maker.is_norm or (index[ids] >= 0).any():
            continue
        name = _weight_name(maker.layer, variable)
        reasons[name] = flow.reason(ids) or _why_not(maker, accepts)
    return reasons


def _why_not(maker, accepts):
    if not maker.layer.trainable:
        return "not trainable"
    if not accepts(maker.layer):
        return "left out by `filters`"
    if not maker.is_live:
        return "what follows makes something else out of its zeros"
    return "zeros in its weights are not enough to remove them"


def _weight_name(layer, variable):
    return f"{layer.name}/{variable.name.split('/')[-1].split(':')[0]}"
