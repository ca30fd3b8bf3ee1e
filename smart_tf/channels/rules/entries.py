"""Layers and operators that treat every entry by itself."""

import functools

import numpy as np

from smart_tf.channels import values
from smart_tf.channels.rules.registry import closed, kind, not_followed, rule
from smart_tf.channels.signal import Signal

_NUMBERS = ("scale", "offset", "x_min", "x_max")
"""Attributes of layers and operators that may be one number or an array."""


@rule(
    *("relu", "leakyrelu", "elu", "thresholdedrelu", "relu6", "sigmoid", "silu"),
    *("swish", "hardsigmoid", "hardsilu", "hardswish", "hardtanh", "hardshrink"),
    *("softplus", "softsign", "selu", "celu", "gelu", "tanh", "exp", "log", "sqrt"),
    *("square", "abs", "absolute", "negative", "sign", "power", "clip", "cast"),
    *("clipbyvalue", "pow", "rsqrt", "erf", "logsigmoid", "identity", "rescaling"),
    *("activityregularization", "stochasticdepth", "customscalelayer"),
    *("add", "subtract", "multiply", "average", "maximum", "minimum", "divide"),
    *("truedivide", "truediv", "addv2", "mul", "sub"),
)
def elementwise(flow, call):
    """Entries at the same place in all inputs become one channel."""
    signals, rank = call.signals, len(call.shape)
    own = [getattr(call.layer, name, None) for name in _NUMBERS]
    if any(np.ndim(a) > 0 for a in [*own, *call.flat] if not isinstance(a, Signal)):
        return not_followed(flow, call, "an array of numbers has fixed channels")
    if any(signal.rank != rank for signal in signals):
        return not_followed(flow, call, "the inputs have different ranks")
    tied = _tied(flow, signals)
    if not tied:
        return not_followed(flow, call, "every entry meets every other")
    ids = functools.reduce(functools.partial(_joined, flow), (s.ids for s in tied))
    constant = call.evaluate([signal.constant for signal in signals])
    if kind(call.layer) in ("multiply", "mul"):
        zero = functools.reduce(np.logical_or, (s.constant == 0.0 for s in signals))
        constant = np.where(zero, 0.0, constant)
    at_zero = call.evaluate([np.zeros_like(signal.constant) for signal in signals])
    makers = dict.fromkeys(m for s in signals for m in s.makers)
    ids, constant = np.broadcast_arrays(ids, constant)
    return Signal(call.shape, ids, constant, () if at_zero.any() else tuple(makers))


def _joined(flow, one, other):
    flow.join(one, other)
    return np.maximum(one, other)


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


@rule(
    *("dropout", "spatialdropout1d", "spatialdropout2d", "spatialdropout3d"),
    *("gaussiannoise", "gaussiandropout", "alphadropout"),
)
def noise(flow, call):
    """Lets channels through, unless it is told to act at inference."""
    if call.argument("training", 1):
        return not_followed(flow, call, "it adds noise")
    if getattr(call.layer, "noise_shape", None) is not None:
        return not_followed(flow, call, "the shape of its noise is fixed")
    return elementwise(flow, call)


@rule("activation")
def activation(flow, call):
    """Lets channels through, unless the function mixes them."""
    if not values.is_elementwise(call.layer.activation):
        return mixes(flow, call)
    return elementwise(flow, call)


mixes = closed("it mixes the channels")
rule("softmax", "logsoftmax", "sparsemax", "glu")(mixes)

ELEMENTWISE = (elementwise, noise, activation)
