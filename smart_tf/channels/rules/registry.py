"""Which rule a layer or operator follows."""

import functools
import math

from smart_tf import prunable
from smart_tf.channels.signal import fixed

_KERAS = ("keras.", "tf_keras.")
_HOOKS = ("call", "convolution_op", "kernel", "embeddings", "_compute_attention")
"""What a subclass of a built-in layer may override to compute something else."""

_AT_EACH_STEP = ("lstm", "gru", "simplernn")
_AT_EACH_OUTPUT = (
    *("dense", "einsumdense", "conv1d", "conv2d", "conv3d"),
    *("depthwiseconv1d", "depthwiseconv2d"),
)
"""Layers whose kernels multiply as often as their outputs have steps or positions."""

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
        return smart_tf.channels.on_axis(
            call.shape, -1, ids, constant * flow.value(factor), (maker,)
        )

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
    if rule == "elementwise":
        rule = _RULES["identity"]
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
    if getattr(layer, "lora_enabled", False):
        return closed("it has LoRA weights")
    if getattr(layer, "quantization_mode", None):
        return closed("it is quantized")
    return _RULES.get(kind(layer), not_followed)


def kind(layer):
    """Name under which the rules know a layer, or None.

    A user's subclass of a built-in layer counts as that layer as long as it computes
    the same.
    """
    symbol = getattr(layer, "symbol", None)  # an operator in a tf_keras graph
    if symbol is not None:
        return symbol.split(".")[-1].replace("_", "").lower()
    own = type(layer)
    for cls in own.__mro__:
        if cls.__module__.startswith(_KERAS):
            same = all(getattr(cls, n, None) is getattr(own, n, None) for n in _HOOKS)
            return cls.__name__.lower() if same else None
    return None


def rule(*names):
    """Decorator: the rule for layers and operators of these names, in lower case."""

    def register(function):
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register


def not_followed(flow, call, reason="not followed"):
    """Closes all that goes in; nothing is known of what comes out."""
    name = getattr(call.layer, "name", type(call.layer).__name__)
    for signal in call.signals:
        flow.close(signal, f"'{name}': {reason}")
    flow.holds(call.layer, f"'{name}': {reason}")
    if getattr(call.layer, "weights", ()):
        for kernel in prunable.kernels(call.layer):
            flow.multiplies(kernel.variable, _repeats(call, kernel))
    return [fixed(shape) for shape in call.shapes]


def _repeats(call, kernel):
    """How often a kernel multiplies in a layer that is not followed; None: unknown."""
    layer, shape = call.layer, call.shape
    cells = layer.forward_layer if kind(layer) == "bidirectional" else layer
    if kind(cells) in _AT_EACH_STEP:
        return call.signals[0].shape[0]
    if kind(layer) not in _AT_EACH_OUTPUT or None in shape:
        return None
    layout, sizes = kernel.layout, kernel.variable.shape
    # An equation may share axes of the kernel with both sides, like those of a batch.
    shared = kind(layer) == "einsumdense"
    axes = set(range(len(sizes))) - set(layout.inputs) if shared else layout.outputs
    return math.prod(shape) // math.prod(sizes[axis] for axis in axes)


def closed(reason):
    """A rule that closes everything for a reason."""
    return functools.partial(not_followed, reason=reason)


def follows(function):
    """A rule of one input with channels on one axis; it closes any other."""

    @functools.wraps(function)
    def checked(flow, call):
        signal = call.signals[0]
        if len(call.signals) != 1:
            return not_followed(flow, call)
        axis = channel_axis(call.layer, signal.rank)
        found = signal.vector(axis)
        if found is None:
            return not_followed(flow, call, "the channels lie on another axis")
        return function(flow, call, axis, *found)

    return checked


def channel_axis(layer, rank):
    """The axis of the channels, not counting the batch."""
    first = getattr(layer, "data_format", None) == "channels_first"
    return 0 if first else rank - 1
