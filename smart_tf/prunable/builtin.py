"""The kernels of the layers of Keras, and what their axes mean.

The layers of Keras 3 and of tf_keras carry equal class names, so both flavours are
looked up here by name, and neither of the two has to be imported.
"""

from smart_tf.layouts import Layout
from smart_tf.prunable.weights import PrunableWeight, held_as, is_keras, is_variable


def dense(rank):
    """`Layout` of a kernel of this rank with inputs before outputs, as most have."""
    return Layout(outputs=(rank - 1,), inputs=(rank - 2,))


def _transposed(rank):
    return Layout(outputs=(rank - 2,), inputs=(rank - 1,))


def _depthwise(rank):
    return Layout(outputs=(rank - 2, rank - 1), inputs=())


_CONV = {"kernel": dense}
_CONV_TRANSPOSE = {"kernel": _transposed}
_DEPTHWISE = {"kernel": _depthwise, "depthwise_kernel": _depthwise}
_SEPARABLE = {"depthwise_kernel": _depthwise, "pointwise_kernel": dense}
_RECURRENT = {"kernel": dense, "recurrent_kernel": dense}

# The kernels of the built-in layers, by the name of the layer's class, or of the first
# of its base classes that is listed.
_KERNELS = {
    "Dense": {"kernel": dense},
    "EinsumDense": {"kernel": None},  # The equation decides: see `_einsum_layout`.
    "Embedding": {"embeddings": dense, "reverse_embeddings": dense},
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
    "LocallyConnected1D": {"kernel": dense},
    "LocallyConnected2D": {"kernel": dense},
    "SimpleRNNCell": _RECURRENT,
    "GRUCell": _RECURRENT,
    "LSTMCell": _RECURRENT,
    "ConvLSTMCell": _RECURRENT,
}


def builtin_weights(layer):
    """List of the `PrunableWeight`s that a layer of Keras holds itself."""
    names = (cls.__name__ for cls in filter(is_keras, type(layer).__mro__))
    name = next((name for name in names if name in _KERNELS), None)
    if name is None:
        return []
    if name.startswith("LocallyConnected") and layer.implementation != 1:
        return []  # The kernel of the others is not laid out by inputs and outputs.
    weights = []
    for attribute, layout_of in _KERNELS[name].items():
        held, variable = held_as(layer, attribute)
        if is_variable(variable):
            rank = len(variable.shape)
            layout = layout_of(rank) if layout_of else _einsum_layout(layer)
            weights.append(PrunableWeight(layer, held, layout))
    return weights


def _einsum_layout(layer):
    """Reads the roles of the axes of an `EinsumDense` kernel from its equation."""
    equation = layer.equation.replace("...", "")
    operands, _, result = equation.partition("->")
    inputs, _, kernel = operands.partition(",")
    summed = (a for a, x in enumerate(kernel) if x in inputs and x not in result)
    made = (a for a, x in enumerate(kernel) if x in result and x not in inputs)
    return Layout(outputs=tuple(made), inputs=tuple(summed))
