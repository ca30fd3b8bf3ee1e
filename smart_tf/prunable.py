"""Which weights of a layer can be pruned.

The layers of Keras 3 and of tf_keras carry equal class names, so both flavours are
looked up here by name, and neither of the two has to be imported.
"""

import dataclasses
import itertools
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

# Layers that divide a kernel inside of them by its norm, and assign the result to it,
# in every call: they would normalise the masked kernel, and overwrite the dense one.
_REWRITING = ("SpectralNormalization",)

_REGISTERED = {}


def register_prunable(cls, fn):
    """Teaches pruning which weights of a layer class to prune.

    The answer is complete: weights of the layer, or of layers inside of it, that `fn`
    leaves out are not pruned. Subclasses are covered too. The layers of a model are
    asked one by one, and the model is not: weights of its own belong in a layer.

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
        TypeError: If a layer declares something other than a list of variables.
        ValueError: If a layer declares a weight that it does not hold.
    """
    rewritten = _rewritten(layer)
    return [
        w
        for w in _trainable_kernels(layer)
        if not is_quantized(w.owner) and id(w.variable) not in rewritten
    ]


def kernels(layer, structure=None):
    """Like `prunable_weights`, those that training or calls overwrite included.

    These are kernels that are frozen, quantized, or rewritten by a layer around them.

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
    """Names with a number on those that were there before: no two are equal."""
    taken = {}
    for name in names:
        tries = itertools.chain([name], (f"{name}_{k}" for k in itertools.count(1)))
        taken[next(one for one in tries if one not in taken)] = name
    return list(taken)


def _rewritten(layer):
    """Ids of the kernels that layers assign to whenever they are called."""
    return {
        id(weight.variable)
        for owner in _walk(layer, set())
        if any(c.__name__ in _REWRITING for c in filter(_is_keras, type(owner).__mro__))
        for weight in kernels(owner)
    }


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
    trainable = _trainable_kernels(layer)
    if any(is_quantized(weight.owner) for weight in trainable):
        return "quantized"
    if trainable:
        return "rewrites its kernel in every call"
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


def declares_weights_of_its_own(layer):
    """Whether a layer or model declares what to prune, and holds weights itself."""
    nested = {id(v) for child in _children(layer) for v in _variables(child, "weights")}
    trainable = _variables(layer, "trainable_variables")
    return _declaration(layer) is not None and any(
        id(variable) not in nested for variable in trainable
    )


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
    declared = declaration()
    if not isinstance(declared, (list, tuple)):
        raise TypeError(
            f"The prunable weights of layer {layer.name!r} must be a list of variables "
            f"or names of attributes; an empty one for none. Received: {declared!r}"
        )
    return [_resolve(layer, entry) for entry in declared]


def _declaration(layer):
    """Returns the callable that lists a layer's prunable weights, if it has one."""
    for cls in type(layer).__mro__:
        if cls in _REGISTERED:
            return lambda: _REGISTERED[cls](layer)
    return getattr(layer, "get_prunable_weights", None)


def _resolve(layer, entry):
    """Turns a declared entry into a `PrunableWeight`."""
    entry, layout = _entry_and_layout(layer, entry)
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


def _entry_and_layout(layer, entry):
    if not isinstance(entry, tuple):
        return entry, None
    if len(entry) != 2 or not isinstance(entry[1], (Layout, type(None))):
        raise TypeError(
            f"The prunable weights of layer {layer.name!r} must be variables, names of "
            "attributes, or pairs of one of these and a `smart_tf.Layout`. "
            f"Received: {entry!r}"
        )
    return entry


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


def is_quantized(layer):
    """Whether Keras has quantized the kernels that a layer holds itself."""
    return getattr(layer, "quantization_mode", None) is not None


def _is_wrapper(layer):
    return bool(getattr(type(layer), "is_pruning_wrapper", False))
