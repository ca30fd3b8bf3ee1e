"""What the blocks of single kernels cost, where it is not their weights."""

import functools

import numpy as np

from smart_tf import flavours, prunable
from smart_tf.channels import trace


def block_prices(model, layers, structure, budget):
    """What one weight costs, for every kernel of the layers that are pruned.

    Args:
        model: Built model of either flavour.
        layers: List of its layers.
        structure: `smart_tf.structures.Structure`.
        budget: `"weights"`, `"macs"`, or a function from a `PrunableWeight` to what
            its blocks cost.

    Returns:
        Dict from `id(layer)` to further settings of its wrapper, for each layer that
        has a kernel of its own: one that several layers hold is the first one's.

    Raises:
        ValueError: If `budget` is none of these, a cost is not positive, or MACs
            cannot be counted.
    """
    if isinstance(budget, str) and budget == "weights":
        price_of = _price_of_weights
    elif isinstance(budget, str) and budget == "macs":
        price_of = functools.partial(_price_in_macs, _uses(model))
    elif callable(budget):
        price_of = functools.partial(_given_price, budget, structure)
    else:
        raise ValueError(
            "Argument `budget` must be 'weights', 'macs' or a function; 'params' goes "
            f"with coupled channels. Received: budget={budget!r}"
        )
    owned, chosen = set(), {}
    for layer in layers:
        prices = []
        trainable = {id(w.variable) for w in prunable.prunable_weights(layer)}
        for weight in prunable.kernels(layer, structure):
            is_new = id(weight.variable) in trainable - owned
            owned.add(id(weight.variable))
            prices.append(price_of(weight) if is_new else None)
        if any(price is not None for price in prices):
            needed = budget != "weights" or None in prices
            chosen[id(layer)] = {"prices": prices} if needed else {}
    return chosen


def priced_kernels(layers, structure, prices):
    """Yields `(layer, weight, price)` for every kernel that a structure fits.

    Args:
        layers: List of layers.
        structure: `smart_tf.structures.Structure`.
        prices: What `block_prices` found for them.
    """
    for layer in layers:
        weights = prunable.kernels(layer, structure)
        own = prices[id(layer)].get("prices", [1.0] * len(weights))
        for weight, price in zip(weights, own, strict=True):
            if price is not None:
                yield layer, weight, price


def _price_of_weights(weight):
    return 1.0


def _uses(model):
    """Dict from `id(kernel)` to how often each of its weights multiplies."""
    flavour = flavours.of(model)
    if not flavour.is_graph_model(model):
        raise ValueError(
            "Argument `budget` must be 'weights' or a function for a model that is "
            "neither Functional nor Sequential: its multiply-accumulates cannot be "
            f"counted. Received: budget='macs', model={model!r}"
        )
    uses = {}
    for product in trace(model).products:
        repeats = uses.get(id(product.variable), 0)
        known = product.repeats is not None and repeats is not None
        uses[id(product.variable)] = repeats + product.repeats if known else None
    return uses


def _price_in_macs(uses, weight):
    price = uses.get(id(weight.variable))
    if price is None:
        raise ValueError(
            "Argument `budget` must be 'weights' or a function for this model: how "
            f"often '{weight.name}' multiplies is unknown. Leave it out with "
            "`filters`, or give the inputs a fixed size. Received: budget='macs'"
        )
    return float(price)


def _given_price(cost_of, structure, weight):
    shape = tuple(weight.variable.shape)
    counts = structure.costs(shape, weight.layout)
    given = cost_of(weight)
    try:
        costs = np.broadcast_to(np.asarray(given, np.float64), counts.shape)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Argument `budget` must give a number, or an array of the shape "
            f"{counts.shape}, the grid of blocks. Received for '{weight.name}': "
            f"{given!r}"
        ) from error
    if not (np.isfinite(costs) & (costs > 0)).all():
        raise ValueError(
            "Argument `budget` must give positive costs. Received for "
            f"'{weight.name}': {costs}"
        )
    return (costs / counts).tolist()
