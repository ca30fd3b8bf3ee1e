"""Layers that scale what others made, channel by channel or all together."""

import numpy as np

from smart_tf.channels import values
from smart_tf.channels.rules.registry import closed, not_followed, rule
from smart_tf.channels.signal import on_axis


def _normalises(function):
    """A rule of a normalisation whose one axis carries channels."""

    def checked(flow, call):
        layer, signal = call.layer, call.signals[0]
        axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
        axis = axes[0] % (signal.rank + 1) - 1
        found = signal.vector(axis) if len(axes) == 1 else None
        if found is None or len(call.signals) != 1:
            return not_followed(flow, call)
        return function(flow, call, axis, *found)

    return checked


@rule("batchnormalization", "syncbatchnormalization")
@_normalises
def batch_normalization(flow, call, axis, ids, constant):
    """Channels stay; one that is constant comes out as another constant."""
    layer = call.layer
    gamma, beta = layer.gamma, layer.beta
    if getattr(layer, "renorm", False) or call.argument("training", 1):
        return not_followed(flow, call, "the statistics are those of the batch")
    statistics = (layer.moving_mean, layer.moving_variance)
    for variable in statistics:
        flow.carries(layer, variable, 0, ids)
    # Without a factor, the shift of the mean has to vanish as well.
    own = [gamma, beta] if gamma is not None else [beta, layer.moving_mean]
    return _scaled(flow, call, axis, ids, constant, own, statistics)


@rule("groupnormalization")
@_normalises
def group_normalization(flow, call, axis, ids, constant):
    """Its groups go as a whole; the statistics of the others stay as they are."""
    layer = call.layer
    groups = len(ids) if layer.groups == -1 else layer.groups
    rows, inside = ids.reshape(groups, -1), constant.reshape(groups, -1)
    flow.join(rows, rows[:, :1])
    flow.resize(layer, groups=lambda count: count(rows[:, 0]))
    statistics = [
        np.repeat(moment(axis=1), rows.shape[1]) for moment in (inside.mean, inside.var)
    ]
    own = [layer.gamma, layer.beta]
    return _scaled(flow, call, axis, ids, constant, own, statistics)


def _scaled(flow, call, axis, ids, constant, own, statistics):
    """The output of a normalisation by `(mean, variance)`, arrays or variables."""
    layer, signal = call.layer, call.signals[0]
    constant = values.normalised(
        constant,
        flow.value(layer.gamma, 1.0),
        flow.value(layer.beta, 0.0),
        *map(flow.value, statistics),
        layer.epsilon,
    )
    maker = flow.makes(layer, [(v, 0, ids) for v in own], is_norm=True)
    makers = (maker,) if layer.gamma is not None else (*signal.makers, maker)
    return on_axis(call.shape, axis, ids, constant, makers)


for _name in ("layernormalization", "rmsnormalization", "unitnormalization"):
    rule(_name)(closed("all channels are normalised together"))


@rule("layerscale")
def layer_scale(flow, call):
    """A channel with a factor of 0 is 0 from here on."""
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


@rule("prelu")
def prelu(flow, call):
    """Channels stay; what it makes of a negative constant differs with the place."""
    layer, signal = call.layer, call.signals[0]
    found = signal.vector(-1)
    if found is None or layer.alpha.shape[-1] != len(found[0]):
        return not_followed(flow, call)
    ids, constant = found
    flow.carries(layer, layer.alpha, -1, ids)
    constant = np.where(constant >= 0.0, constant, np.nan)
    return on_axis(call.shape, -1, ids, constant, signal.makers)


NORMALISATIONS = (batch_normalization, group_normalization)
