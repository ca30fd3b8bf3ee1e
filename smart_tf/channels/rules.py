"""How channels pass through each kind of layer.

The layers of Keras 3 and of tf_keras, and the operators in a graph, are looked up by
the name of their class. A rule is a function of a `Flow` and a `Call` that returns the
signal that comes out.
"""

import functools
import math

import numpy as np

from smart_tf.channels import values
from smart_tf.channels.signal import Signal, fixed, on_axis

_KERAS = ("keras.", "tf_keras.")
_RULES = {}
_REGISTERED = {}


def register_rule(cls, rule):
    """Teaches `shrink` and coupled channels a layer of your own.

    Example of a layer with one factor for each channel:

    ```python
    def scale_rule(flow, call):
        ids, constant = call.signals[0].vector(-1)
        factor = call.layer.factor
        maker = flow.makes(call.layer, [(factor, 0, ids)], is_norm=True)
        return on_axis(call.shape, -1, ids, constant * flow.value(factor), (maker,))

    smart_tf.channels.register_rule(Scale, scale_rule)
    ```

    Args:
        cls: Layer class of Keras 3 or tf_keras.
        rule: Function of a `smart_tf.channels.Flow` and a `smart_tf.channels.Call`
            that returns a `smart_tf.channels.Signal`, or a list of them for a layer
            with several outputs. Or `"elementwise"`, for a layer that treats each
            entry alike and by itself.

    Raises:
        TypeError: If `cls` is no class, or `rule` neither callable nor
            `"elementwise"`.
    """
    if not isinstance(cls, type):
        raise TypeError(f"Argument `cls` must be a layer class. Received: cls={cls!r}")
    if isinstance(rule, str) and rule == "elementwise":
        rule = elementwise
    if not callable(rule):
        raise TypeError(
            "Argument `rule` must be a function of a flow and a call, or "
            f"'elementwise'. Received: rule={rule!r}"
        )
    _REGISTERED[cls] = rule


def rule_of(layer):
    """The rule for a layer or operator; one that closes everything if none is known."""
    for cls in type(layer).__mro__:
        if cls in _REGISTERED:
            return _REGISTERED[cls]
    return _RULES.get(_kind(layer), not_followed)


def _kind(layer):
    """Name under which the rules know a layer, or None.

    A user's subclass of a built-in layer counts as that layer as long as it leaves
    `call` alone.
    """
    symbol = getattr(layer, "symbol", None)  # an operator in a tf_keras graph
    if symbol is not None:
        return symbol.split(".")[-1].replace("_", "").lower()
    for cls in type(layer).__mro__:
        if cls.__module__.startswith(_KERAS):
            same = getattr(cls, "call", None) is getattr(type(layer), "call", None)
            return cls.__name__.lower() if same else None
    return None


def _rule(*names):
    def register(function):
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register


def not_followed(flow, call, reason=None):
    """Closes all that goes in; nothing is known of what comes out."""
    name = getattr(call.layer, "name", type(call.layer).__name__)
    for signal in call.signals:
        flow.close(signal, f"{reason or 'not followed'} through '{name}'")
    return [fixed(shape) for shape in call.shapes]


def _follows(rule):
    """A rule that needs channels on one axis, and closes signals without."""

    @functools.wraps(rule)
    def checked(flow, call):
        layer, signal = call.layer, call.signals[0]
        if len(call.signals) != 1 or getattr(layer, "lora_enabled", False):
            return not_followed(flow, call)
        axis = _channel_axis(layer, signal.rank)
        found = signal.vector(axis)
        return rule(flow, call, axis, *found) if found else not_followed(flow, call)

    return checked


def _channel_axis(layer, rank):
    """The axis of the channels, not counting the batch."""
    first = getattr(layer, "data_format", None) == "channels_first"
    return 0 if first else rank - 1


def _positions(shape, axis):
    """How often a kernel is applied, or None where a size is unknown."""
    sizes = [n for a, n in enumerate(shape) if a != axis % len(shape)]
    return None if None in sizes else math.prod(sizes)


# Layers that make channels of their own


@_rule("dense")
@_follows
def _dense(flow, call, axis, ids, constant):
    layer = call.layer
    made = flow.new(layer.units)
    flow.resize(layer, units=lambda count: count(made))
    repeats = _positions(call.shape, -1)
    return _multiplied(flow, call, layer.kernel, (0, 1), ids, constant, made, repeats)


@_rule("conv1d", "conv2d", "conv3d")
@_follows
def _conv(flow, call, axis, ids, constant):
    layer = call.layer
    ids, constant = _across_groups(flow, layer, ids, constant)
    made = np.tile(flow.new(layer.filters // layer.groups), layer.groups)
    flow.resize(layer, filters=lambda count: count(made))
    repeats = _positions(call.shape, axis)
    constant = _at_borders(layer, constant)
    return _multiplied(flow, call, layer.kernel, (-2, -1), ids, constant, made, repeats)


@_rule("conv1dtranspose", "conv2dtranspose", "conv3dtranspose")
@_follows
def _conv_transpose(flow, call, axis, ids, constant):
    layer = call.layer
    made = flow.new(layer.filters)
    flow.resize(layer, filters=lambda count: count(made))
    repeats = _positions(call.signals[0].shape, axis)
    constant = np.where(constant == 0.0, 0.0, np.nan)  # strides and borders
    return _multiplied(flow, call, layer.kernel, (-1, -2), ids, constant, made, repeats)


@_rule("depthwiseconv1d", "depthwiseconv2d")
@_follows
def _depthwise(flow, call, axis, ids, constant):
    layer = call.layer
    kernel = getattr(layer, "depthwise_kernel", None)
    kernel = layer.kernel if kernel is None else kernel
    made = np.repeat(ids, layer.depth_multiplier)
    constant = _per_channel(flow, layer, kernel, constant)
    constant = constant + flow.value(layer.bias, 0.0)
    maker = flow.makes(layer, [(kernel, -2, ids), (layer.bias, 0, made)])
    flow.multiplies(kernel, _positions(call.shape, axis))
    return _activated(flow, call, axis, made, constant, maker)


@_rule("separableconv1d", "separableconv2d")
@_follows
def _separable(flow, call, axis, ids, constant):
    layer = call.layer
    flow.carries(layer, layer.depthwise_kernel, -2, ids)
    between = np.repeat(ids, layer.depth_multiplier)
    constant = _per_channel(flow, layer, layer.depthwise_kernel, constant)
    made = flow.new(layer.filters)
    flow.resize(layer, filters=lambda count: count(made))
    repeats = _positions(call.shape, axis)
    flow.multiplies(layer.depthwise_kernel, repeats)
    kernel = layer.pointwise_kernel
    return _multiplied(flow, call, kernel, (-2, -1), between, constant, made, repeats)


@_rule("embedding")
def _embedding(flow, call):
    layer = call.layer
    made = flow.new(layer.output_dim)
    table = flow.value(layer.embeddings)
    constant = np.where((table == table[0]).all(axis=0), table[0], np.nan)
    flow.resize(layer, output_dim=lambda count: count(made))
    maker = flow.makes(layer, [(layer.embeddings, 1, made)])
    return on_axis(call.shape, -1, made, constant, (maker,), maker)


@_rule("einsumdense")
def _einsum_dense(flow, call):
    layer, signal = call.layer, call.signals[0]
    left, _, result = layer.equation.replace("...", "").partition("->")
    inputs, _, kernel = left.partition(",")
    summed = [k for k in kernel if k in inputs and k not in result]
    made_letters = [k for k in kernel if k in result and k not in inputs]
    plain = (
        len(kernel) == 2
        and summed == [inputs[-1]]
        and made_letters == [result[-1]]
        and not getattr(layer, "lora_enabled", False)
    )
    found = signal.vector(-1) if plain else None
    if found is None:
        return not_followed(flow, call)
    made = flow.new(call.shape[-1])

    def output_shape(count):
        shape = layer.partial_output_shape
        return (*shape[:-1], count(made))

    flow.resize(layer, output_shape=output_shape)
    axes = kernel.index(summed[0]), kernel.index(made_letters[0])
    repeats = _positions(call.shape, -1)
    return _multiplied(flow, call, layer.kernel, axes, *found, made, repeats)


@_rule("lstm", "gru", "simplernn")
def _recurrent(flow, call):
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


@_rule("multiheadattention")
def _attention(flow, call):
    """Whole heads go; what a head makes is only ever read by the output kernel."""
    layer, output = call.layer, call.layer._output_dense
    query, value = call.argument("query", 0), call.argument("value", 1)
    key = call.argument("key", 2)
    inputs = [query, value, value if key is None else key]
    parts = [layer._query_dense, layer._value_dense, layer._key_dense]
    found = [signal.vector(-1) for signal in inputs]
    if None in found or query.rank != 2 or len(output.kernel.shape) != 3:
        return not_followed(flow, call)
    heads = flow.new(output.kernel.shape[0])
    made = flow.new(output.kernel.shape[-1])
    for part, signal, (ids, constant) in zip(parts, inputs, found, strict=True):
        used = (flow.value(part.kernel) != 0).any(axis=(1, 2))
        flow.carries(layer, part.kernel, 0, ids)
        flow.needs(ids[used & (constant != 0.0)])
        flow.multiplies(part.kernel, signal.shape[0])
    weights = [(part.kernel, 1, heads) for part in parts]
    weights += [(part.bias, 0, heads) for part in parts]
    maker = flow.makes(layer, weights)
    maker.is_live, maker.rounds = True, False
    flow.carries(layer, output.kernel, 0, heads)
    flow.multiplies(output.kernel, query.shape[0])
    positions = [signal.shape[0] for signal in (query, inputs[2])]
    if None not in positions:
        size = parts[0].kernel.shape[2] + parts[1].kernel.shape[2]
        flow.multiplies(None, math.prod(positions) * size, heads)

    def output_shape(count):
        width = count(made)
        own = layer._output_shape is not None or width != count(found[0][0])
        return width if own else None

    flow.resize(layer, num_heads=lambda n: n(heads), output_shape=output_shape)
    kernel, silent = flow.value(output.kernel), _is_silent(flow, layer._value_dense)
    flow.needs(heads[(kernel != 0).any(axis=(1, 2)) & ~silent])
    varies = (kernel[~silent] != 0).any(axis=(0, 1))
    constant = np.where(varies, np.nan, flow.value(output.bias, 0.0))
    maker = flow.makes(layer, [(output.kernel, 2, made), (output.bias, 0, made)])
    signal = on_axis(call.shape, -1, made, constant, (maker,), maker)
    return [signal, *(fixed(shape) for shape in call.shapes[1:])]


def _is_silent(flow, values_of_heads):
    """Which heads attend to nothing but zeros."""
    silent = (flow.value(values_of_heads.kernel) == 0).all(axis=(0, 2))
    if values_of_heads.bias is not None:
        silent &= (flow.value(values_of_heads.bias) == 0).all(axis=1)
    return silent


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
    return np.where(constant == 0.0, 0.0, np.nan)


def _per_channel(flow, layer, kernel, constant):
    """Constants after a depthwise kernel, without its bias."""
    kernel = flow.value(kernel).reshape(-1, *kernel.shape[-2:])  # (positions, in, m)
    constant = _at_borders(layer, constant)[:, None]
    used = (kernel != 0).any(axis=0)
    return np.where(used, constant * kernel.sum(axis=0), 0.0).ravel()


def _multiplied(flow, call, kernel, axes, ids, constant, made, repeats):
    """The output of a layer that multiplies with a kernel and adds a bias."""
    layer, bias = call.layer, getattr(call.layer, "bias", None)
    matrix = values.matrix(flow.value(kernel), *axes)
    flow.reads(layer, kernel, axes[0], ids, constant, matrix, bias)
    flow.multiplies(kernel, repeats)
    maker = flow.makes(layer, [(kernel, axes[1], made), (bias, 0, made)])
    constant = values.product(matrix, constant) + flow.value(bias, 0.0)
    axis = _channel_axis(layer, len(call.shape))
    return _activated(flow, call, axis, made, constant, maker)


def _activated(flow, call, axis, made, constant, maker):
    """The output of a layer that makes channels and may have an activation."""
    signal = on_axis(call.shape, axis, made, constant, (maker,), maker)
    activation = getattr(call.layer, "activation", None)
    name = getattr(activation, "__name__", str(activation))
    if activation is None or name == "linear":
        return signal
    if name in values.MIXING:
        flow.close(signal, f"'{name}' mixes the channels of '{call.layer.name}'")
        return fixed(call.shape)
    at_zero = values.apply(activation, np.zeros(1))[0]
    constant = values.apply(activation, signal.constant)
    return Signal(signal.shape, signal.ids, constant, (maker,) if at_zero == 0 else ())


# Layers that scale what others made


@_rule("batchnormalization", "syncbatchnormalization")
def batch_normalization(flow, call):
    layer, signal = call.layer, call.signals[0]
    axis = _norm_axis(layer)
    found = None if axis is None else signal.vector(axis - 1 if axis > 0 else axis)
    if found is None:
        return not_followed(flow, call)
    ids, constant = found
    gamma, beta = layer.gamma, layer.beta
    statistics = (layer.moving_mean, layer.moving_variance)
    for variable in statistics:
        flow.carries(layer, variable, 0, ids)
    # Without a factor, the shift of the mean has to vanish as well.
    own = [gamma, beta] if gamma is not None else [beta, layer.moving_mean]
    maker = flow.makes(layer, [(v, 0, ids) for v in own], is_norm=True)
    constant = values.normalised(
        constant,
        flow.value(gamma, 1.0),
        flow.value(beta, 0.0),
        *(flow.value(variable) for variable in statistics),
        layer.epsilon,
    )
    makers = (maker,) if gamma is not None else (*signal.makers, maker)
    place = axis - 1 if axis > 0 else axis
    return on_axis(call.shape, place, ids, constant, makers)


def _norm_axis(layer):
    """The one axis of a normalisation, the batch counted, or None."""
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return axes[0] if len(axes) == 1 else None


@_rule("groupnormalization")
def group_normalization(flow, call):
    """Its groups go as a whole; the statistics of the others stay as they are."""
    layer, signal = call.layer, call.signals[0]
    axis = _norm_axis(layer)
    found = None if axis is None else signal.vector(axis - 1 if axis > 0 else axis)
    if found is None:
        return not_followed(flow, call)
    ids, constant = found
    groups = len(ids) if layer.groups == -1 else layer.groups
    rows = ids.reshape(groups, -1)
    flow.join(rows, rows[:, :1])
    flow.resize(layer, groups=lambda count: count(rows[:, 0]))
    maker = flow.makes(
        layer, [(layer.gamma, 0, ids), (layer.beta, 0, ids)], is_norm=True
    )
    inside = constant.reshape(groups, -1)
    mean, variance = (
        np.repeat(moment(axis=1), rows.shape[1]) for moment in (inside.mean, inside.var)
    )
    constant = values.normalised(
        constant,
        flow.value(layer.gamma, 1.0),
        flow.value(layer.beta, 0.0),
        mean,
        variance,
        layer.epsilon,
    )
    makers = (maker,) if layer.gamma is not None else (*signal.makers, maker)
    place = axis - 1 if axis > 0 else axis
    return on_axis(call.shape, place, ids, constant, makers)


@_rule("layernormalization", "rmsnormalization", "unitnormalization")
def _mixes(flow, call):
    return not_followed(flow, call, "all channels are normalised together")


@_rule("layerscale")
def _layer_scale(flow, call):
    layer, signal = call.layer, call.signals[0]
    found = signal.vector(-1)
    if found is None:
        return not_followed(flow, call)
    ids, constant = found
    maker = flow.makes(layer, [(layer.gamma, 0, ids)], is_norm=True)
    flow.resize(layer, projection_dim=lambda count: count(ids))
    gamma = flow.value(layer.gamma)
    constant = np.where(gamma == 0.0, 0.0, constant * gamma)
    return on_axis(call.shape, -1, ids, constant, (*signal.makers, maker))


@_rule("prelu")
def _prelu(flow, call):
    layer, signal = call.layer, call.signals[0]
    found = signal.vector(-1)
    if found is None or layer.alpha.shape[-1] != len(found[0]):
        return not_followed(flow, call)
    ids, constant = found
    flow.carries(layer, layer.alpha, -1, ids)
    constant = np.where(constant >= 0.0, constant, np.nan)
    return on_axis(call.shape, -1, ids, constant, signal.makers)


# Layers that treat every entry by itself


@_rule(
    *("relu", "leakyrelu", "elu", "thresholdedrelu", "relu6", "sigmoid", "silu"),
    *("swish", "hardsigmoid", "hardsilu", "hardswish", "hardtanh", "hardshrink"),
    *("softplus", "softsign", "selu", "celu", "gelu", "tanh", "exp", "log", "sqrt"),
    *("square", "abs", "absolute", "negative", "sign", "power", "clip", "cast"),
    *("erf", "dropout", "spatialdropout1d", "spatialdropout2d", "spatialdropout3d"),
    *("gaussiannoise", "gaussiandropout", "alphadropout", "activityregularization"),
    *("identity", "stochasticdepth", "add", "subtract", "multiply", "average"),
    *("maximum", "minimum", "divide", "truedivide", "truediv", "addv2", "mul", "sub"),
    *("customscalelayer", "rescaling"),
)
def elementwise(flow, call):
    """Entries at the same place in all inputs become one channel."""
    signals, rank = call.signals, len(call.shape)
    scalars = all(isinstance(a, Signal) or np.ndim(a) == 0 for a in call.flat)
    if not scalars or any(signal.rank != rank for signal in signals):
        return not_followed(flow, call)
    first, *others = _tied(flow, signals)
    ids = first.ids
    for other in others:
        flow.join(ids, other.ids)
        ids = np.maximum(ids, other.ids)
    constant = call.evaluate([signal.constant for signal in signals])
    if _kind(call.layer) in ("multiply", "mul"):
        zero = functools.reduce(np.logical_or, (s.constant == 0.0 for s in signals))
        constant = np.where(zero, 0.0, constant)
    at_zero = call.evaluate([np.zeros_like(signal.constant) for signal in signals])
    makers = dict.fromkeys(m for s in signals for m in s.makers)
    ids, constant = np.broadcast_arrays(ids, constant)
    return Signal(call.shape, ids, constant, () if at_zero.any() else tuple(makers))


def _tied(flow, signals):
    """The signals whose channels go together.

    One channel that is combined with many, as in spatial attention, just stays.
    """
    sizes = np.max([signal.ids.shape for signal in signals], axis=0)
    tied = []
    for signal in signals:
        if any(own == 1 and n > 1 for own, n in zip(signal.shape, sizes, strict=True)):
            flow.close(signal, "one channel that is combined with many")
        else:
            tied.append(signal)
    return tied


@_rule("activation")
def _activation(flow, call):
    name = getattr(call.layer.activation, "__name__", "")
    if name in values.MIXING:
        return not_followed(flow, call, f"'{name}' mixes channels")
    return elementwise(flow, call)


# Layers that move, repeat or pool entries


@_rule(
    *(f"{kind}pooling{n}d" for kind in ("max", "average") for n in (1, 2, 3)),
    *(f"{kind}pool{n}d" for kind in ("max", "average") for n in (1, 2, 3)),
    *(f"upsampling{n}d" for n in (1, 2, 3)),
    *(f"cropping{n}d" for n in (1, 2, 3)),
    *("adaptiveaveragepooling2d", "adaptivemaxpooling2d"),
)
@_follows
def _pool(flow, call, axis, ids, constant):
    return on_axis(call.shape, axis, ids, constant, call.signals[0].makers)


@_rule("zeropadding1d", "zeropadding2d", "zeropadding3d")
@_follows
def _zero_padding(flow, call, axis, ids, constant):
    constant = np.where(constant == 0.0, 0.0, np.nan)
    return on_axis(call.shape, axis, ids, constant, call.signals[0].makers)


@_rule(
    *(f"global{kind}pooling{n}d" for kind in ("max", "average") for n in (1, 2, 3)),
)
@_follows
def _global_pool(flow, call, axis, ids, constant):
    axis = axis if len(call.shape) > 1 else -1
    return on_axis(call.shape, axis, ids, constant, call.signals[0].makers)


@_rule("repeatvector")
@_follows
def _repeat(flow, call, axis, ids, constant):
    return on_axis(call.shape, -1, ids, constant, call.signals[0].makers)


@_rule("permute")
def _permute(flow, call):
    order = [axis - 1 for axis in call.layer.dims]
    return call.signals[0].moved(call.shape, lambda array: array.transpose(order))


@_rule("flatten", "reshape")
def _reshape(flow, call):
    layer, signal = call.layer, call.signals[0]
    if None in call.shape or None in signal.shape:
        return not_followed(flow, call)

    def move(array):
        array = np.broadcast_to(array, signal.shape)
        if getattr(layer, "data_format", None) == "channels_first":
            array = np.moveaxis(array, 0, -1)  # as `Flatten` does
        return array.reshape(call.shape)

    out = signal.moved(call.shape, move)
    varying = [axis for axis, n in enumerate(out.ids.shape) if n != 1]
    if len(varying) > 1:
        return not_followed(flow, call)
    if varying and hasattr(layer, "target_shape"):
        [axis] = varying
        ids, shape = out.ids.ravel(), call.shape

        def target_shape(count):
            return (*shape[:axis], count(ids), *shape[axis + 1 :])

        flow.resize(layer, target_shape=target_shape)
    return out


@_rule("concatenate")
def _concatenate(flow, call):
    signals, rank = call.signals, len(call.shape)
    axis = call.layer.axis
    axis = axis - 1 if axis > 0 else axis + rank
    if axis < 0 or any(signal.rank != rank for signal in signals):
        return not_followed(flow, call)
    makers = tuple(dict.fromkeys(m for s in signals for m in s.makers))
    if any(n != 1 for s in signals for a, n in enumerate(s.ids.shape) if a != axis):
        return _stacked(flow, call, axis, makers)
    if any(signal.shape[axis] is None for signal in signals):
        return not_followed(flow, call)
    parts = [signal.vector(axis) for signal in signals]
    ids, constant = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return on_axis(call.shape, axis, ids, constant, makers)


def _stacked(flow, call, axis, makers):
    """Side by side along an axis that is not that of the channels."""
    first, *others = call.signals
    if any(s.ids.shape[axis] != 1 for s in call.signals):
        return not_followed(flow, call)
    constant = first.constant
    for other in others:
        flow.join(first.ids, other.ids)
        constant = np.where(constant == other.constant, constant, np.nan)
    ids = np.broadcast_to(first.ids, constant.shape)
    return Signal(call.shape, ids, constant, makers)


ELEMENTWISE = (elementwise, _activation)
NORMALISATIONS = (batch_normalization, group_normalization)
