"""Which weights of a layer, and of those inside of it, can be pruned, and why not."""

import itertools

from smart_tf.prunable.builtin import builtin_weights
from smart_tf.prunable.declared import declaration, declared_weights
from smart_tf.prunable.weights import is_keras

# Classes that say nothing about what a subclass of theirs computes.
_GENERIC = (
    *("Layer", "Model", "Functional", "Sequential", "Wrapper"),
    *("BaseRandomLayer", "AbstractRNNCell"),
)

# Layers that divide a kernel inside of them by its norm, and assign the result to it,
# in every call: they would normalise the masked kernel, and overwrite the dense one.
_REWRITING = ("SpectralNormalization",)


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
    if declaration(layer):
        return "declares no prunable weights"
    nested = {id(v) for child in _children(layer) for v in _variables(child, "weights")}
    if all(id(v) in nested for v in weights):
        return next(filter(None, map(why_not, _children(layer))), None)
    if next(filter(is_keras, type(layer).__mro__)).__name__ not in _GENERIC:
        return "no kernel"
    if not _variables(layer, "trainable_variables"):
        return "not trainable"
    return "unknown layer: teach it with smart_tf.register_prunable"


def declares_weights_of_its_own(layer):
    """Whether a layer or model declares what to prune, and holds weights itself."""
    nested = {id(v) for child in _children(layer) for v in _variables(child, "weights")}
    trainable = _variables(layer, "trainable_variables")
    return declaration(layer) is not None and any(
        id(variable) not in nested for variable in trainable
    )


def is_quantized(layer):
    """Whether Keras has quantized the kernels that a layer holds itself."""
    return getattr(layer, "quantization_mode", None) is not None


def _rewritten(layer):
    """Ids of the kernels that layers assign to whenever they are called."""
    return {
        id(weight.variable)
        for owner in _walk(layer, set())
        if any(c.__name__ in _REWRITING for c in filter(is_keras, type(owner).__mro__))
        for weight in kernels(owner)
    }


def _trainable_kernels(layer):
    trainable = {id(v) for v in _variables(layer, "trainable_variables")}
    return [w for w in kernels(layer) if id(w.variable) in trainable]


def _fits(structure, weight):
    return structure.supports(tuple(weight.variable.shape), weight.layout) is None


def _walk(layer, seen):
    """Yields the layer and those inside of it that speak for themselves."""
    if id(layer) in seen or _is_wrapper(layer):
        return
    seen.add(id(layer))
    yield layer
    if declaration(layer) is None:
        for child in _children(layer):
            yield from _walk(child, seen)


def _own_weights(layer):
    declares = declaration(layer)
    if declares is None:
        return builtin_weights(layer)
    if not layer.built and not _variables(layer, "weights"):
        return []  # A declaration may read kernels that do not exist yet.
    return declared_weights(layer, declares())


def _children(layer):
    return list(layer._flatten_layers(include_self=False, recursive=False))


def _variables(layer, kind):
    try:
        return list(getattr(layer, kind))
    except ValueError:  # tf_keras models refuse the question before they are built.
        return []


def _is_wrapper(layer):
    return bool(getattr(type(layer), "is_pruning_wrapper", False))
