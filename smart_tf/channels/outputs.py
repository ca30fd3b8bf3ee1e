"""The layers whose channels are what a model puts out."""

import tensorflow as tf

from smart_tf import flavours


def heads(model):
    """The layers that make an output of a model, up to functions and normalisations.

    Args:
        model: Model (or layer) of either flavour, with pruning wrappers or without.

    Returns:
        List of layers, each once. What several tensors make together, as a sum, has
        no head, and neither has a model that is no graph of layers.
    """
    flavour = flavours.of(model)
    has_graph = flavour.is_model(model) and flavour.is_graph_model(model)
    if not has_graph or not getattr(model, "inputs", None):
        return []
    makers = {id(tensor): (None, []) for tensor in model.inputs}
    for layer, args, kwargs, outputs in flavour.calls(model):
        read = [id(a) for a in tf.nest.flatten((args, kwargs)) if id(a) in makers]
        makers.update({id(tensor): (layer, read) for tensor in outputs})
    found = {}
    for tensor in model.outputs:
        layer, read = makers[id(tensor)]
        while len(read) == 1 and not _makes_channels(layer):
            layer, read = makers[read[0]]
        if _makes_channels(layer):
            inner = heads(layer) if flavours.of(layer).is_model(layer) else [layer]
            found.update({id(head): head for head in inner})
    return list(found.values())


def _makes_channels(layer):
    """Whether a layer has more than vectors, which scale and shift what is there."""
    return any(len(weight.shape) > 1 for weight in getattr(layer, "weights", ()))
