"""What the channels of a model are to compete for, and along which weights they run."""

import math

import numpy as np

from smart_tf.channels.graph import trace
from smart_tf.channels.groups import MadeSlices
from smart_tf.coupling import Coupling
from smart_tf.cut_costs import CutCosts


def couple(groups, sparsity, kind, max_group_sparsity):
    """The `Coupling` of a model, and what its layers have to know.

    Args:
        groups: `ChannelGroups` of the model.
        sparsity: Float, the fraction of the cost that goes.
        kind: Which cost: `"weights"`, `"params"`, `"macs"`, or a function from a
            `ChannelGroup` to what one of its channels costs.
        max_group_sparsity: Float, fraction of a group's channels that may go at most.

    Returns:
        Tuple of the `Coupling` and a dict from `id(layer)` to the layer's list of
        dicts, which say what channels run along which of its weights.
    """
    costs = _given_costs(groups, kind) if callable(kind) else groups.costs(kind)
    budget = (1.0 - sparsity) * costs.total()
    floors = _floors(costs.sizes, max_group_sparsity)
    kind = "costs" if callable(kind) else kind
    coupling = Coupling(costs, budget, floors, kind, groups.reasons)
    return coupling, _by_layer(groups.slices)


def couple_kernels(model, kernels, structure, sparsity, max_kernel_sparsity):
    """The `Coupling` of the channels of single kernels, where norms follow them.

    Every kernel is a group of its own. During the search the masks of a kernel act
    behind its normalisation, where the network feels them.

    Args:
        model: Functional or Sequential model.
        kernels: List of triples: a layer, one of its `PrunableWeight`s, and what one
            of its weights costs, a number or an array of the grid's shape.
        structure: `smart_tf.structures.Channel`.
        sparsity: Float, the fraction of the cost that goes.
        max_kernel_sparsity: Float, fraction of a kernel's channels that may go at most.

    Returns:
        As `couple`; or None if no kernel is followed by a `BatchNormalization` of its
        own, or channels of one kernel differ in their costs.
    """
    costs = [
        structure.costs(tuple(weight.variable.shape), weight.layout) * price
        for _, weight, price in kernels
    ]
    norms = _norms_behind(trace(model), kernels)
    if not norms or any(np.ptp(one) > 0 for one in costs):
        return None
    slices, start = [], 0
    for (layer, weight, _), cost in zip(kernels, costs, strict=True):
        channels = np.arange(start, start + cost.size)
        start += cost.size
        kernel = weight.variable
        behind = norms.get(id(kernel), ())
        slices.append(MadeSlices(layer, kernel, None, channels, not behind, True))
        for norm, factor in _affine(behind):
            slices.append(MadeSlices(norm, factor, 0, channels, True, False))
    costs = _costs_of_channels([(c.size, 1, c.flat[0]) for c in costs])
    budget = (1.0 - sparsity) * costs.total()
    floors = _floors(costs.sizes, max_kernel_sparsity)
    return Coupling(costs, budget, floors, "costs", {}), _by_layer(slices)


def _norms_behind(flow, kernels):
    """Dict from `id(kernel)` to the list of normalisations that alone read it.

    They must read nothing else.
    """
    makers = {id(maker.weights[0][0]): maker for maker in flow.makers}
    behind = {}
    for _, weight, _ in kernels:
        maker = makers.get(id(weight.variable))
        if maker is not None and maker.is_normalised:
            norms = [norm for norm, _ in maker.readers]
            if all(_can_mask(norm, flow) for norm in norms):
                behind[id(weight.variable)] = norms
    return behind


def _can_mask(norm, flow):
    """Whether it scales each channel by itself, and those of one call only."""
    by_itself = hasattr(norm, "moving_mean") and (id(norm.gamma), 0) in flow.axes
    return by_itself and norm.trainable and flow.calls[id(norm)] == 1


def _affine(norms):
    """Pairs of a normalisation and a variable that scales or shifts its channels."""
    pairs = [(norm, v) for norm in norms for v in (norm.gamma, norm.beta)]
    return [(norm, v) for norm, v in pairs if v is not None]


def _by_layer(slices):
    """Dict from `id(layer)` to what it has to know of `MadeSlices` of its weights."""
    found = {}
    for one in slices:
        found.setdefault(id(one.layer), []).append(
            {
                "weight": [id(v) for v in one.layer.weights].index(id(one.variable)),
                "axis": one.axis,
                "channels": one.channels.tolist(),
                "in_search": one.in_search,
                "is_kernel": one.is_kernel,
            }
        )
    return found


def _floors(sizes, max_sparsity):
    """How many channels stay at least, for each group."""
    least = (math.ceil((1.0 - max_sparsity) * size - 1e-9) for size in sizes)
    return tuple(max(1, number) for number in least)


def _given_costs(groups, cost_of):
    """Costs that a user gives for the channels of each group."""
    given = [cost_of(group) for group in groups]
    try:
        costs = [float(cost) for cost in given]
    except (TypeError, ValueError):
        costs = [math.nan]  # No numbers: refused like those out of range.
    if not all(0 < cost < math.inf for cost in costs):
        raise ValueError(
            "Argument `budget` must give a positive cost for every group of channels. "
            f"Received: {given}"
        )
    sizes = [(len(group.channels), group.unit) for group in groups]
    return _costs_of_channels([(*s, c) for s, c in zip(sizes, costs, strict=True)])


def _costs_of_channels(groups):
    """`CutCosts` of groups `(size, unit, cost of a channel)` that share no kernel."""
    sizes, units, costs = zip(*groups, strict=True)
    widths = [(0.0, ((index, 1.0),)) for index in range(len(groups))]
    terms = [(float(cost), index + 1, 0) for index, cost in enumerate(costs)]
    return CutCosts(sizes, units, ((1.0, ()), *widths), tuple(terms))
