"""Which weights of a layer can be pruned.

The layers of Keras 3 and of tf_keras carry equal class names, so both flavours are
looked up here by name, and neither of the two has to be imported.
"""

import dataclasses
from typing import Any

from smart_tf.layouts import Layout

_FLAVOURS = ("keras.", "tf_keras.")


@dataclasses.dataclass(frozen=True)
class PrunableWeight:
    """A prunable variable, and where it is held.

    Args:
        owner: The (possibly nested) layer that holds the variable.
        attribute: Name under which `owner` holds the variable itself, so that
            `getattr(owner, attribute)` is one of the objects in `owner.variables`.
        layout: The `Layout` of the variable.
    """

    owner: Any
    attribute: str
    layout: Layout

    @property
    def variable(self):
        """The variable that is held now."""
        return getattr(self.owner, self.attribute)

    @property
    def name(self):
        """A readable path, such as `"encoder/dense/kernel"`."""
        variable = self.variable
        name = (getattr(variable, "path", None) or variable.name).partition(":")[0]
        return name if "/" in name else f"{self.owner.name}/{name}"


class _Item:
    """One entry of a list or dict of variables, that reads and sets as `item`.

    The raw storage is written, because the tracking containers of TensorFlow refuse
    to save a checkpoint once one of their entries was replaced.
    """

    def __init__(self, owner, attribute, key):
        self.name = f"{owner.name}/{attribute}/{key}"
        self._at = (owner, attribute, key)

    @property
    def item(self):
        return self._storage()[self._at[2]]

    @item.setter
    def item(self, value):
        self._storage()[self._at[2]] = value

    def _storage(self):
        held = getattr(*self._at[:2])
        return getattr(held, "_storage", getattr(held, "__wrapped__", held))


def _dense(rank):
    return Layout(outputs=(rank - 1,), inputs=(rank - 2,))


def _transposed(rank):
    return Layout(outputs=(rank - 2,), inputs=(rank - 1,))


def _depthwise(rank):
    return Layout(outputs=(rank - 2, rank - 1), inputs=())


_CONV = {"kernel": _dense}
_CONV_TRANSPOSE = {"kernel": _transposed}
_DEPTHWISE = {"kernel": _depthwise, "depthwise_kernel": _depthwise}
_SEPARABLE = {"depthwise_kernel": _depthwise, "pointwise_kernel": _dense}
_RECURRENT = {"kernel": _dense, "recurrent_kernel": _dense}

# The kernels of the built-in layers, by the name of the layer's class, or of the first
# of its base classes that is listed.
_KERNELS = {
    "Dense": {"kernel": _dense},
    "EinsumDense": {"kernel": None},  # The equation decides: see `_einsum_layout`.
    "Embedding": {"embeddings": _dense, "reverse_embeddings": _dense},
    "BaseConv": _CONV,
    "Conv": _CONV,
    "BaseConvTranspose": _CONV_TRANSPOSE,
    "Conv1DTranspose": _CONV_TRANSPOSE,
    "Conv2DTranspose": _CONV_TRANSPOSE,
    "Conv3DTranspose": _CONV_TRANSPOSE,
    "BaseDepthwiseConv": _DEPTHWISE,
    "DepthwiseConv": _DEPTHWISE,
    "BaseSeparableConv": _SEPARABLE,
    "SeparableConv": _SEPARABLE,
    "LocallyConnected1D": {"kernel": _dense},
    "LocallyConnected2D": {"kernel": _dense},
    "SimpleRNNCell": _RECURRENT,
    "GRUCell": _RECURRENT,
    "LSTMCell": _RECURRENT,
    "ConvLSTMCell": _RECURRENT,
}
# Classes that say nothing about what a subclass of theirs computes.
_GENERIC = (
    *("Layer", "Model", "Functional", "Sequential", "Wrapper"),
    *("BaseRandomLayer", "AbstractRNNCell"),
)

_REGISTERED = {}


def register_prunable(cls, fn):
    """Teaches pruning which weights of a layer class to prune.

    The answer is complete: weights of the layer, or of layers inside of it, that `fn`
    leaves out are not pruned. Subclasses are covered too.

    Args:
        cls: A layer class of Keras 3 or tf_keras.
        fn: Callable that takes a built layer and returns a list. Its entries are
            attribute names, variables, or pairs of one of these and a `Layout`.
            Without a layout, the last axis of a weight is taken for its outputs and
            the one before for its inputs.

    Raises:
        TypeError: If `cls` is not a layer class, or `fn` cannot be called.
    """
    if not isinstance(cls, type) or not any(map(_is_keras, cls.__mro__)):
        raise TypeError(f"Argument `cls` must be a layer class. Received: cls={cls!r}")
    if not callable(fn):
        raise TypeError(f"Argument `fn` must be callable. Received: fn={fn!r}")
    _REGISTERED[cls] = fn


def prunable_weights(layer):
    """Finds the weights of a layer that can be pruned.

    Known are the built-in layers with a kernel, layer classes that were passed to
    `register_prunable`, and layers with a `get_prunable_weights()` method that returns
    a list of variables (the protocol of TensorFlow Model Optimization). Layers inside
    of other layers are searched as well, except in pruning wrappers.

    Args:
        layer: A built layer or model of Keras 3 or tf_keras.

    Returns:
        A list of `PrunableWeight`, each trainable variable once.

    Raises:
        TypeError: If a layer declares something that is not a variable.
        ValueError: If a layer declares a weight that it does not hold.
    """
    return [w for w in _trainable_kernels(layer) if not _is_quantized(w.owner)]


def kernels(layer, structure=None):
    """Like `prunable_weights`, those that are frozen or quantized included.

    Args:
        layer: A layer or model of Keras 3 or tf_keras.
        structure: `smart_tf.structures.Structure` that has to fit them, or None.

    Returns:
        A list of `PrunableWeight`, each variable once.
    """
    found = {}
    for owner in _walk(layer, set()):
        for weight in _own_weights(owner):
            found.setdefault(id(weight.variable), weight)
    return [w for w in found.values() if structure is None or _fits(structure, w)]


def kernel_names(weights):
    """The names of `PrunableWeight`s, each of them once.

    Layers in models within a model may have equal paths: those that come later are
    numbered.
    """
    return numbered([weight.name for weight in weights])


def numbered(names):
    """Names with a number on those that were there before."""
    before = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{n}_{k}" if k else n for n, k in zip(names, before, strict=True)]


def _trainable_kernels(layer):
    trainable = {id(v) for v in _variables(layer, "trainable_variables")}
    return [w for w in kernels(layer) if id(w.variable) in trainable]


def _fits(structure, weight):
    return structure.supports(tuple(weight.variable.shape), weight.layout) is None


def why_not(layer):
    """Says why nothing of a layer can be pruned.

    Args:
        layer: A layer of Keras 3 or tf_keras.

    Returns:
        A short reason, or `None` if the layer is prunable or was built without weights.
    """
    if _is_wrapper(layer) or prunable_weights(layer):
        return None
    weights = _variables(layer, "weights")
    if not weights:
        return None if layer.built else "not built"
    if _trainable_kernels(layer):
        return "quantized"
    if kernels(layer):
        return "not trainable"
    if _declaration(layer):
        return "declares no prunable weights"
    nested = {id(v) for child in _children(layer) for v in _variables(child, "weights")}
    if all(id(v) in nested for v in weights):
        return next(filter(None, map(why_not, _children(layer))), None)
    if next(filter(_is_keras, type(layer).__mro__)).__name__ not in _GENERIC:
        return "no kernel"
    if not _variables(layer, "trainable_variables"):
        return "not trainable"
    return "unknown layer: teach it with smart_tf.register_prunable"


def _walk(layer, seen):
    """Yields the layer and those inside of it that speak for themselves."""
    if id(layer) in seen or _is_wrapper(layer):
        return
    seen.add(id(layer))
    yield layer
    if _declaration(layer) is None:
        for child in _children(layer):
            yield from _walk(child, seen)


def _own_weights(layer):
    declaration = _declaration(layer)
    if declaration is None:
        return _builtin_weights(layer)
    if not layer.built and not _variables(layer, "weights"):
        return []  # A declaration may read kernels that do not exist yet.
    return [_resolve(layer, entry) for entry in declaration()]


def _declaration(layer):
    """Returns the callable that lists a layer's prunable weights, if it has one."""
    for cls in type(layer).__mro__:
        if cls in _REGISTERED:
            return lambda: _REGISTERED[cls](layer)
    return getattr(layer, "get_prunable_weights", None)


def _resolve(layer, entry):
    """Turns a declared entry into a `PrunableWeight`."""
    entry, layout = entry if isinstance(entry, tuple) else (entry, None)
    variable = entry
    if isinstance(entry, str):
        _, held = _held(layer, entry)
        variable = getattr(layer, entry, None) if held is None else held
    if not _is_variable(variable):
        raise TypeError(
            f"The prunable weights of layer {layer.name!r} must be variables or names "
            f"of attributes that hold one. Received: {entry!r}"
        )
    owner, attribute = holder(layer, variable)
    if layout is None:
        # tfmot declares weights of built-in layers too: those are known better.
        known = _builtin_weights(owner) if attribute != "item" else []
        layouts = [w.layout for w in known if w.variable is variable]
        layout = layouts[0] if layouts else _guess(layer, variable)
    layout.groups(len(variable.shape))  # Raises where the layout does not fit.
    return PrunableWeight(owner, attribute, layout)


def _guess(layer, variable):
    rank = len(variable.shape)
    if rank == 0:
        raise ValueError(
            f"The prunable weights of layer {layer.name!r} must have axes. "
            f"Received a scalar: {variable.name!r}"
        )
    return _dense(rank) if rank > 1 else Layout(outputs=(0,), inputs=())


def holder(layer, variable):
    """Finds the `(owner, attribute)` that holds a variable of the layer.

    Raises:
        ValueError: If neither the layer nor one inside of it holds the variable.
    """
    layers = list(layer._flatten_layers())
    for owner in layers:
        for attribute, value in vars(owner).items():
            if value is variable:
                return owner, attribute
    for owner in layers:
        for attribute, value in vars(owner).items():
            if attribute.startswith("_") or not isinstance(value, (list, dict)):
                continue
            keys = value if isinstance(value, dict) else range(len(value))
            for key in keys:
                if value[key] is variable:
                    return _Item(owner, attribute, key), "item"
    raise ValueError(
        f"The prunable weights of layer {layer.name!r} must be held by an attribute of "
        f"it or of a layer inside of it. Received: {variable.name!r}"
    )


def _builtin_weights(layer):
    names = (cls.__name__ for cls in filter(_is_keras, type(layer).__mro__))
    name = next((name for name in names if name in _KERNELS), None)
    if name is None:
        return []
    if name.startswith("LocallyConnected") and layer.implementation != 1:
        return []  # The kernel of the others is not laid out by inputs and outputs.
    weights = []
    for attribute, layout_of in _KERNELS[name].items():
        held, variable = _held(layer, attribute)
        if _is_variable(variable):
            rank = len(variable.shape)
            layout = layout_of(rank) if layout_of else _einsum_layout(layer)
            weights.append(PrunableWeight(layer, held, layout))
    return weights


def _held(layer, name):
    """Returns the attribute that holds what is known as `name`, and its value.

    Keras 3 holds `kernel` as `_kernel`, behind a property that adds LoRA terms.
    """
    attributes = vars(layer)
    attribute = f"_{name}" if f"_{name}" in attributes else name
    return attribute, attributes.get(attribute)


def _einsum_layout(layer):
    """Reads the roles of the axes of an `EinsumDense` kernel from its equation."""
    equation = layer.equation.replace("...", "")
    operands, _, result = equation.partition("->")
    inputs, _, kernel = operands.partition(",")
    summed = (a for a, x in enumerate(kernel) if x in inputs and x not in result)
    made = (a for a, x in enumerate(kernel) if x in result and x not in inputs)
    return Layout(outputs=tuple(made), inputs=tuple(summed))


def _children(layer):
    return list(layer._flatten_layers(include_self=False, recursive=False))


def _variables(layer, kind):
    try:
        return list(getattr(layer, kind))
    except ValueError:  # tf_keras models refuse the question before they are built.
        return []


def _is_keras(cls):
    return cls.__module__.startswith(_FLAVOURS)


def _is_variable(value):
    return hasattr(value, "assign") and hasattr(value, "shape")


def _is_quantized(layer):
    return getattr(layer, "quantization_mode", None) is not None


def _is_wrapper(layer):
    return bool(getattr(type(layer), "is_pruning_wrapper", False))
