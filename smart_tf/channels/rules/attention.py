"""Attention: whole heads go."""

import functools
import math

import numpy as np

from smart_tf.channels.rules.registry import not_followed, rule
from smart_tf.channels.signal import on_axis


@rule("multiheadattention")
def multi_head_attention(flow, call):
    """Whole heads go; what a head makes is only ever read by the output kernel."""
    layer, output = call.layer, call.layer._output_dense
    query, value = call.argument("query", 0), call.argument("value", 1)
    key = call.argument("key", 2)
    inputs = [query, value, value if key is None else key]
    found = [signal.vector(-1) for signal in inputs]
    masks = [s for s in call.signals if all(s is not known for known in inputs)]
    if None in found or query.rank != 2 or len(output.kernel.shape) != 3:
        return not_followed(flow, call)
    if any(mask.rank > 2 for mask in masks):
        return not_followed(flow, call, "its mask tells heads apart")
    for mask in masks:
        flow.close(mask, f"a mask of '{layer.name}'")
    heads = flow.new(output.kernel.shape[0])
    made = flow.new(output.kernel.shape[-1])

    def output_shape(count):
        width = count(made)
        own = layer._output_shape is not None or width != count(found[0][0])
        return width if own else None

    flow.resize(layer, num_heads=lambda n: n(heads), output_shape=output_shape)
    if "query_shape" in layer.get_config():  # tf_keras builds the layer with them
        for name, signal, (ids, _) in zip(_INPUTS, inputs, found, strict=True):
            shape = functools.partial(_shape, signal, ids)
            flow.resize(layer, **{f"{name}_shape": shape})
    _project(flow, layer, inputs, found, heads)
    _attend(flow, layer, query, inputs[2], heads)
    constant = _read_heads(flow, layer, heads)
    flow.multiplies(output.kernel, query.shape[0])
    maker = flow.makes(layer, [(output.kernel, 2, made), (output.bias, 0, made)])
    signal = on_axis(call.shape, -1, made, constant, (maker,), maker)
    scores = [
        on_axis(shape, 0, heads, np.full(len(heads), np.nan))
        for shape in call.shapes[1:]
    ]
    return [signal, *scores]


_INPUTS = ("query", "value", "key")


def _shape(signal, ids, count):
    return (None, *signal.shape[:-1], count(ids))


def _project(flow, layer, inputs, found, heads):
    """Queries, values and keys of every head."""
    parts = [layer._query_dense, layer._value_dense, layer._key_dense]
    for part, signal, (ids, constant) in zip(parts, inputs, found, strict=True):
        used = (flow.value(part.kernel) != 0).any(axis=(1, 2))
        flow.carries(layer, part.kernel, 0, ids)
        flow.needs(ids[used & (constant != 0.0)])
        flow.multiplies(part.kernel, signal.shape[0])
    weights = [(part.kernel, 1, heads) for part in parts]
    weights += [(part.bias, 0, heads) for part in parts]
    maker = flow.makes(layer, weights)
    maker.is_live, maker.rounds = True, False


def _attend(flow, layer, query, key, heads):
    """The two products of positions with positions."""
    sizes = [query.shape[0], key.shape[0]]
    width = layer._key_dense.kernel.shape[2] + layer._value_dense.kernel.shape[2]
    repeats = None if None in sizes else math.prod(sizes) * width
    flow.multiplies(None, repeats, heads)


def _read_heads(flow, layer, heads):
    """Constants of the outputs. A head without values adds nothing."""
    output, part = layer._output_dense, layer._value_dense
    silent = (flow.value(part.kernel) == 0).all(axis=(0, 2))
    if part.bias is not None:
        silent &= (flow.value(part.bias) == 0).all(axis=1)
    kernel = flow.value(output.kernel)
    flow.carries(layer, output.kernel, 0, heads)
    flow.needs(heads[(kernel != 0).any(axis=(1, 2)) & ~silent])
    varies = (kernel[~silent] != 0).any(axis=(0, 1))
    return np.where(varies, np.nan, flow.value(output.bias, 0.0))
