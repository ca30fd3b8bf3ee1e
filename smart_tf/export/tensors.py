"""The weights inside a `.tflite` file."""

import dataclasses
import struct

import numpy as np

from smart_tf.export.sparse_format import densify, metadata_bytes
from smart_tf.layouts import Layout

# Of the second input of an operator: what its axes mean.
_LAYOUTS = {
    "CONV_2D": Layout(outputs=(0,), inputs=(3,)),
    "CONV_3D": Layout(outputs=(4,), inputs=(3,)),
    "TRANSPOSE_CONV": Layout(outputs=(0,), inputs=(3,)),
    "DEPTHWISE_CONV_2D": Layout(outputs=(3,), inputs=()),
    "FULLY_CONNECTED": Layout(outputs=(0,), inputs=(1,)),
}
_PASSED_ON = ("DEQUANTIZE", "DENSIFY")


@dataclasses.dataclass(frozen=True)
class WeightTensor:
    """One constant of a model file, as stored.

    Attributes:
        name: The tensor's name in the file.
        shape: Its shape in the file; in `.tflite` convolutions are
            `(out, height, width, in)`, fully connected layers `(out, in)`.
        dtype: Its stored type, such as `"float32"` or `"int8"`.
        zeros: Boolean array of `shape`: where the represented number is exactly 0.
        content: The bytes that it takes in the file.
        layout: The `Layout` of its axes, where the operator that reads it tells.
        index_bytes: If it is stored sparse, the bytes of row starts and column numbers
            beside `content`; otherwise `None`.
    """

    name: str
    shape: tuple
    dtype: str
    zeros: np.ndarray
    content: bytes = b""
    layout: Layout | None = None
    index_bytes: int | None = None

    @property
    def zero_fraction(self):
        """The share of exact zeros."""
        return self.zeros.mean().item()

    @classmethod
    def of_array(cls, name, array, layout=None):
        """A tensor that is stored as the plain bytes of an array."""
        return cls(
            name, array.shape, array.dtype.name, array == 0, array.tobytes(), layout
        )


def read_weights(path):
    """List the weights (biases included) that a `.tflite` file stores.

    Shapes, axes, scalars and other small constants of the graph are left out: what
    counts is floating point, or quantized.

    Args:
        path: The file; any tool's.

    Returns:
        A list of `WeightTensor`.
    """
    model = read_model(path)
    types = _names(schema().TensorType)
    weights = []
    for graph in model.subgraphs:
        layouts = _layouts(model, graph)
        for index, tensor in enumerate(graph.tensors):
            data = model.buffers[tensor.buffer].data
            dtype = types[tensor.type].lower()
            if data is not None and len(data) and _is_weight(tensor, dtype):
                data = np.asarray(data, np.uint8)
                weights.append(_weight(tensor, data, dtype, layouts.get(index)))
    return weights


def read_model(path):
    """The object tree (`ModelT`) of a `.tflite` file."""
    with open(path, "rb") as file:
        content = file.read()
    if content[4:8] != b"TFL3":
        raise ValueError(f"Argument `path` must be a .tflite file. Received: {path}")
    try:
        return schema().ModelT.InitFromObj(schema().Model.GetRootAs(content, 0))
    except struct.error as error:
        raise ValueError(
            f"Argument `path` must be a whole .tflite file. Received: {path} ({error})"
        ) from error


def operator_names(model, graph):
    """The operators of a subgraph in order: builtin names, or those of custom ones."""
    builtin = _names(schema().BuiltinOperator)
    names = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        # Old files have their code in the narrower field only.
        name = builtin[max(code.builtinCode, code.deprecatedBuiltinCode)]
        names.append(code.customCode.decode() if name == "CUSTOM" else name)
    return names


def activation_types(model):
    """The stored types of what flows between operators, such as `{"int8"}`, and the
    names of the operators that each of them comes from."""
    types = _names(schema().TensorType)
    found = {}
    for graph in model.subgraphs:
        named = zip(graph.operators, operator_names(model, graph), strict=True)
        for operator, name in named:
            for index in operator.outputs:
                kind = types[graph.tensors[index].type].lower()
                found.setdefault(kind, set()).add(name)
    return found


def schema():
    """The generated module that reads `.tflite` files."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:  # TensorFlow carries a copy.
        from tensorflow.lite.python import schema_py_generated
    return schema_py_generated


def _names(enumeration):
    return {
        code: name
        for name, code in vars(enumeration).items()
        if not name.startswith("_")
    }


def _layouts(model, graph):
    """What the axes of the weights mean, by tensor index."""
    layouts = {}
    # Backwards, so that the reader of a dequantized weight is known before.
    named = zip(graph.operators, operator_names(model, graph), strict=True)
    for operator, name in reversed(list(named)):
        if name in _LAYOUTS:
            layouts[operator.inputs[1]] = _LAYOUTS[name]
        elif name in _PASSED_ON and operator.outputs[0] in layouts:
            layouts[operator.inputs[0]] = layouts[operator.outputs[0]]
    return layouts


def _is_weight(tensor, dtype):
    if tensor.shape is None or np.prod(tensor.shape) <= 1:
        return False
    scale = tensor.quantization.scale if tensor.quantization else None
    return dtype in ("float32", "float16") or (scale is not None and len(scale) > 0)


def _weight(tensor, data, dtype, layout):
    shape = tuple(int(size) for size in tensor.shape)
    size = int(np.prod(shape))
    name = tensor.name.decode() if isinstance(tensor.name, bytes) else tensor.name
    stored = _unpack_int4(data, size) if dtype == "int4" else data.view(dtype)
    zero_point = 0
    if tensor.quantization and tensor.quantization.zeroPoint is not None:
        points = np.unique(tensor.quantization.zeroPoint)
        zero_point = points[0] if len(points) == 1 else 0
    used, index_bytes = stored != zero_point, None
    if tensor.sparsity is not None:
        used = densify(used, shape, tensor.sparsity)
        index_bytes = metadata_bytes(tensor.sparsity)
    zeros = ~used.reshape(shape)
    return WeightTensor(name, shape, dtype, zeros, data.tobytes(), layout, index_bytes)


def _unpack_int4(data, size):
    """Two signed nibbles a byte, the low one first."""
    nibbles = np.stack([data & 15, data >> 4], -1).reshape(-1)[:size].astype(np.int8)
    return np.where(nibbles > 7, nibbles - 16, nibbles)
