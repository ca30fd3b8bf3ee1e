"""Follows the channels through a model, call by call."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from smart_tf import flavours
from smart_tf.channels import rules
from smart_tf.channels.flow import Flow
from smart_tf.channels.signal import Signal, fixed


@dataclasses.dataclass
class Call:
    """One call of a layer (or operator) in a model.

    Attributes:
        layer: The layer.
        args: Positional arguments, with a `Signal` for each tensor.
        kwargs: Keyword arguments, likewise.
        shapes: List of the shapes of the outputs, without the batch.
    """

    layer: Any
    args: tuple
    kwargs: dict
    shapes: list

    def __post_init__(self):
        self.flat = tf.nest.flatten((self.args, self.kwargs))
        self.signals = [a for a in self.flat if isinstance(a, Signal)]

    @property
    def shape(self):
        """Shape of the first output, without the batch."""
        return self.shapes[0]

    def argument(self, name, position):
        """The signal that was passed by position or by name, or None."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name)

    def option(self, name, position):
        """A setting of a layer, or an argument of an operator; None by default."""
        found = self.argument(name, position)
        return getattr(self.layer, name, None) if found is None else found

    def evaluate(self, arrays):
        """What an elementwise layer makes of arrays in place of its signals.

        NaN in, NaN out.
        """
        waiting = iter(arrays)

        def value(argument):
            if not isinstance(argument, Signal):
                return argument
            return tf.constant(next(waiting)[None], tf.float32)

        args, kwargs = tf.nest.map_structure(value, (self.args, self.kwargs))
        out = np.asarray(self.layer(*args, **kwargs), np.float64)[0]
        varies = sum(np.isnan(array).astype(np.float64) for array in arrays)
        return np.where(varies > 0, np.nan, out)


def trace(model, zeroed=None):
    """Follows the channels of a model.

    Args:
        model: Built Functional or Sequential model of either flavour.
        zeroed: Optional dict from `id(variable)` to a value to assume for it.

    Returns:
        `Flow`.

    Raises:
        ValueError: If the model has no graph of layers, is not built, or has pruning
            wrappers.
    """
    flavour = flavours.of(model)
    _check(model, flavour)
    flow = Flow(zeroed)
    inputs = [fixed(_shape(tensor)) for tensor in model.inputs]
    for signal in _run(model, inputs, flow, flavour):
        flow.close(signal, "an output of the model")
    flow.close_held()
    return flow


def _check(model, flavour):
    received = f"Received: model={model!r} (of type {type(model).__name__})"
    if not flavour.is_model(model) or not flavour.is_graph_model(model):
        raise ValueError(
            "Argument `model` must be a Functional or Sequential model: the channels "
            f"of others cannot be followed from layer to layer. {received}"
        )
    if not model.built or not model.inputs:
        raise ValueError(
            "Argument `model` must be built: give it an `Input`, or call it on data "
            f"first. {received}"
        )
    for layer in model._flatten_layers():
        classes = [cls.__name__ for cls in type(layer).__mro__]
        if flavours.is_wrapper(layer) or "PruneLowMagnitude" in classes:
            raise ValueError(
                "Argument `model` has pruning wrappers: call `smart_tf.strip_pruning` "
                f"(or tfmot's) on it first. Received: layer '{layer.name}' of class "
                f"{type(layer).__name__}"
            )


def _run(model, inputs, flow, flavour):
    """The signals of a model's outputs; `flow` takes down what happens on the way."""
    signals = {id(t): s for t, s in zip(model.inputs, inputs, strict=True)}
    flow.entered(model, inputs)
    for layer, args, kwargs, outputs in flavour.calls(model):

        def signal_of(argument):
            return signals.get(id(argument), argument)

        args, kwargs = tf.nest.map_structure(signal_of, (tuple(args), dict(kwargs)))
        for mask in tf.nest.flatten(kwargs.pop("mask", None)):
            if isinstance(mask, Signal):
                flow.close(mask, f"it masks '{layer.name}'")
        call = Call(layer, args, kwargs, [_shape(tensor) for tensor in outputs])
        results = _answer(call, flow, flavour)
        signals.update({id(t): s for t, s in zip(outputs, results, strict=True)})
    return [signals[id(tensor)] for tensor in model.outputs]


def _answer(call, flow, flavour):
    layer = call.layer
    if flavour.is_model(layer) and flavour.is_graph_model(layer):
        signals = _inputs_in_order(call, layer, flavour)
        if signals is not None and not call.argument("training", 1):
            return _run(layer, signals, flow, flavour)
    flow.met(layer)
    rule = rules.rule_of(layer)
    for signal in call.signals:
        _note_reader(signal, layer, rule)
    results = rule(flow, call)
    if id(layer) in flow.resized and not getattr(layer, "weights", ()):
        flow.entered(layer, call.signals)  # its settings are those of all its calls
    return [results] if isinstance(results, Signal) else list(results)


def _inputs_in_order(call, model, flavour):
    """The signals that a nested model is called with, in the order of its inputs;
    None if they are not told apart."""
    given = call.args[0] if call.args else None
    if not isinstance(given, dict) or isinstance(flavour.inputs_of(model), dict):
        return call.signals
    names = [tensor.name for tensor in model.inputs]
    return [given[name] for name in names] if set(names) <= set(given) else None


def _note_reader(signal, layer, rule):
    """What a maker has to know of those who read it."""
    if rule not in rules.ELEMENTWISE:
        for maker in signal.makers:
            maker.is_live = True
    if signal.source is not None:
        signal.source.readers.append((layer, rule in rules.NORMALISATIONS))


def _shape(tensor):
    return tuple(tensor.shape)[1:]
