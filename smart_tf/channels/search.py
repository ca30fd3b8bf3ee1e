"""What the channels of a model are to compete for, and along which weights they run."""

import numpy as np

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
    floors = [
        max(1, int(np.ceil((1.0 - max_group_sparsity) * size - 1e-9)))
        for size in costs.sizes
    ]
    slices = {}
    for one in groups.slices:
        place = [id(v) for v in one.layer.weights].index(id(one.variable))
        slices.setdefault(id(one.layer), []).append(
            {
                "weight": place,
                "axis": one.axis,
                "channels": one.channels.tolist(),
                "in_search": one.in_search,
                "is_kernel": one.is_kernel,
            }
        )
    budget = (1.0 - sparsity) * costs.total()
    return Coupling(costs, budget, tuple(floors)), slices


def _given_costs(groups, cost_of):
    """Costs that a user gives for the channels of each group."""
    terms = [
        (float(cost_of(group)), index + 1, 0) for index, group in enumerate(groups)
    ]
    if any(not cost > 0 for cost, _, _ in terms):
        raise ValueError(
            "Argument `budget` must give a positive cost for every group of channels. "
            f"Received: {[cost for cost, _, _ in terms]}"
        )
    return CutCosts(
        tuple(len(group.channels) for group in groups),
        tuple(group.unit for group in groups),
        ((1.0, ()), *((0.0, ((index, 1.0),)) for index in range(len(groups)))),
        tuple(terms),
    )
