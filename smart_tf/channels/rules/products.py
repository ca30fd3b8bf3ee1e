"""Layers that multiply channels with a kernel and make channels of their own."""

import math

import numpy as np

from smart_tf.channels import values
from smart_tf.channels.rules.registry import channel_axis, follows, not_followed, rule
from smart_tf.channels.signal import fixed, on_axis


@rule("dense")
@follows
def dense(flow, call, axis, ids, constant):
    """Reads channels along the kernel's first axis and makes new ones."""
    layer = call.layer
    made = flow.new(layer.units)
    flow.resize(layer, units=lambda count: count(made))
    return _multiplied(flow, call, layer.kernel, (0, 1), ids, constant, made)


@rule("conv1d", "conv2d", "conv3d")
@follows
def convolution(flow, call, axis, ids, constant):
    """As `dense`; with groups, those of all groups go together."""
    layer = call.layer
    ids, constant = _across_groups(flow, layer, ids, constant)
    made = np.tile(flow.new(layer.filters // layer.groups), layer.groups)
    flow.resize(layer, filters=lambda count: count(made))
    constant = _at_borders(layer, constant)
    return _multiplied(flow, call, layer.kernel, (-2, -1), ids, constant, made)


@rule("conv1dtranspose", "conv2dtranspose", "conv3dtranspose")
@follows
def transposed_convolution(flow, call, axis, ids, constant):
    """As `convolution`, with the kernel's axes the other way round."""
    layer = call.layer
    made = flow.new(layer.filters)
    flow.resize(layer, filters=lambda count: count(made))
    constant = values.only_zeros(constant)  # strides and borders
    repeats = positions(call.signals[0].shape, axis)
    return _multiplied(flow, call, layer.kernel, (-1, -2), ids, constant, made, repeats)


@rule("depthwiseconv1d", "depthwiseconv2d")
@follows
def depthwise(flow, call, axis, ids, constant):
    """Makes no channels: those that it reads go on, some of them repeated."""
    layer = call.layer
    kernel = getattr(layer, "depthwise_kernel", None)
    kernel = layer.kernel if kernel is None else kernel
    made = np.repeat(ids, layer.depth_multiplier)
    constant = _per_channel(flow, layer, kernel, constant)
    constant = constant + flow.value(layer.bias, 0.0)
    maker = flow.makes(layer, [(kernel, -2, ids), (layer.bias, 0, made)])
    flow.multiplies(kernel, positions(call.shape, axis))
    return _activated(flow, call, made, constant, maker)


@rule("separableconv1d", "separableconv2d")
@follows
def separable(flow, call, axis, ids, constant):
    """A depthwise product whose channels go, and a pointwise that makes new ones."""
    layer = call.layer
    flow.carries(layer, layer.depthwise_kernel, -2, ids)
    between = np.repeat(ids, layer.depth_multiplier)
    constant = _per_channel(flow, layer, layer.depthwise_kernel, constant)
    made = flow.new(layer.filters)
    flow.resize(layer, filters=lambda count: count(made))
    flow.multiplies(layer.depthwise_kernel, positions(call.shape, axis))
    kernel = layer.pointwise_kernel
    return _multiplied(flow, call, kernel, (-2, -1), between, constant, made)


@rule("embedding")
def embedding(flow, call):
    """Makes channels from no others: what it reads are numbers of tokens."""
    layer = call.layer
    for signal in call.signals:
        flow.close(signal, f"'{layer.name}' reads it as numbers of tokens")
    made = flow.new(layer.output_dim)
    table = flow.value(layer.embeddings)
    constant = np.where((table == table[0]).all(axis=0), table[0], np.nan)
    flow.resize(layer, output_dim=lambda count: count(made))
    maker = flow.makes(layer, [(layer.embeddings, 1, made)])
    return on_axis(call.shape, -1, made, constant, (maker,), maker)


@rule("einsumdense")
def einsum_dense(flow, call):
    """As `dense`, where the equation mixes the last axis alone."""
    layer, found = call.layer, call.signals[0].vector(-1)
    axes = _plain_axes(layer)
    if axes is None or found is None:
        return not_followed(flow, call)
    made = flow.new(call.shape[-1])

    def output_shape(count):
        return (*layer.partial_output_shape[:-1], count(made))

    flow.resize(layer, output_shape=output_shape)
    return _multiplied(flow, call, layer.kernel, axes, *found, made)


def _plain_axes(layer):
    """The kernel's axes of inputs and outputs, if it only mixes the last axis."""
    left, _, result = layer.equation.replace("...", "").partition("->")
    inputs, _, kernel = left.partition(",")
    plain = (
        inputs[:-1] == result[:-1]
        and inputs[-1] != result[-1]
        and sorted(kernel) == sorted({inputs[-1], result[-1]})
        and (layer.bias is None or len(layer.bias.shape) == 1)
    )
    return (kernel.index(inputs[-1]), kernel.index(result[-1])) if plain else None


@rule("lstm", "gru", "simplernn")
def recurrent(flow, call):
    """Reads its inputs; the units themselves stay."""
    cell, found = call.layer.cell, call.signals[0].vector(-1)
    if found is None or len(call.signals) != 1:
        return not_followed(flow, call)
    kernel = flow.value(cell.kernel)
    ids, constant = found
    flow.carries(call.layer, cell.kernel, 0, ids)
    flow.needs(ids[(kernel != 0).any(axis=1) & (constant != 0.0)])
    steps = call.signals[0].shape[0]
    flow.multiplies(cell.kernel, steps)
    flow.multiplies(cell.recurrent_kernel, steps)
    return [fixed(shape) for shape in call.shapes]


def positions(shape, axis):
    """How often a kernel is applied, or None where a size is unknown."""
    sizes = [n for a, n in enumerate(shape) if a != axis % len(shape)]
    return None if None in sizes else math.prod(sizes)


def _across_groups(flow, layer, ids, constant):
    """Inputs of a grouped convolution: the same place in every group goes together."""
    ids, constant = (a.reshape(layer.groups, -1) for a in (ids, constant))
    if layer.groups > 1:
        flow.join(ids, ids[0])
    same = (constant == constant[0]).all(axis=0)
    return ids[0], np.where(same, constant[0], np.nan)


def _at_borders(layer, constant):
    """Next to a padding of zeros only zeros are the same at every position."""
    if layer.padding == "valid" or all(size == 1 for size in layer.kernel_size):
        return constant
    return values.only_zeros(constant)


def _per_channel(flow, layer, kernel, constant):
    """Constants after a depthwise kernel, without its bias."""
    kernel = flow.value(kernel).reshape(-1, *kernel.shape[-2:])  # (positions, in, m)
    constant = _at_borders(layer, constant)[:, None]
    used = (kernel != 0).any(axis=0)
    return np.where(used, constant * kernel.sum(axis=0, dtype=np.float64), 0.0).ravel()


def _multiplied(flow, call, kernel, axes, ids, constant, made, repeats=None):
    """The output of a layer that multiplies with a kernel and adds a bias.

    Args:
        flow: The `Flow`.
        call: The `Call`.
        kernel: The variable.
        axes: Tuple, its axes of inputs and outputs.
        ids: int64 array, the channels of the inputs.
        constant: float64 array, their values where they are constant, else NaN.
        made: int64 array, the channels of the outputs.
        repeats: Integer, how often it is applied; by default at each output position.
    """
    layer, bias = call.layer, getattr(call.layer, "bias", None)
    if repeats is None:
        repeats = positions(call.shape, channel_axis(layer, len(call.shape)))
    constant = flow.reads(layer, kernel, axes, ids, constant, bias)
    flow.multiplies(kernel, repeats)
    maker = flow.makes(layer, [(kernel, axes[1], made), (bias, 0, made)])
    return _activated(flow, call, made, constant, maker)


def _activated(flow, call, made, constant, maker):
    """The output of a layer that makes channels and may have an activation."""
    activation = getattr(call.layer, "activation", None)
    axis = channel_axis(call.layer, len(call.shape))
    signal = on_axis(call.shape, axis, made, constant, (maker,), maker)
    if activation is None or getattr(activation, "__name__", "") == "linear":
        return signal
    if not values.is_elementwise(activation):
        name = getattr(activation, "__name__", type(activation).__name__)
        reason = f"the activation '{name}' of '{call.layer.name}' mixes them"
        flow.close(signal, reason)
        flow.holds(activation, reason)  # a layer, perhaps
        return fixed(call.shape)
    zero, constant = (
        values.apply(activation, np.zeros(1)),
        values.apply(activation, constant),
    )
    makers = () if zero.any() else (maker,)
    return on_axis(call.shape, axis, made, constant, makers)
