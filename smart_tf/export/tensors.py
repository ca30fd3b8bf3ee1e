"""The weights inside a `.tflite` file, and which Keras weights they come from."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class WeightTensor:
    """One constant of a `.tflite` file, as stored.

    Attributes:
        name: The tensor's name in the file.
        shape: Its shape in the file; convolutions are `(out, height, width, in)`,
            fully connected layers `(out, in)`.
        dtype: Its stored type, such as `"float32"` or `"int8"`.
        zeros: Boolean array of `shape`: where the represented number is exactly 0.
            `None` where the file stores the tensor in a sparse format.
        zero_fraction: The share of exact zeros.
    """

    name: str
    shape: tuple
    dtype: str
    zeros: np.ndarray | None
    zero_fraction: float


def read_weights(path):
    """List the weights (biases included) that a `.tflite` file stores.

    Shapes, axes, scalars and other small constants of the graph are left out: what
    counts is floating point, or quantized.
    """
    schema = _schema()
    with open(path, "rb") as file:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(file.read(), 0))
    types = {
        code: name.lower()
        for name, code in vars(schema.TensorType).items()
        if not name.startswith("_")
    }
    weights = []
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            dtype = types[tensor.type]
            if data is not None and len(data) and _is_weight(tensor, dtype):
                weights.append(_weight(tensor, np.asarray(data, np.uint8), dtype))
    return weights


def match_weights(weights, sources):
    """Find every pruned Keras weight's zeros in a file.

    A file renames, transposes and rescales weights (it folds BatchNorm into them),
    but none of that turns a zero into something else.  So a Keras weight is matched
    by the positions of its zeros.

    Args:
        weights: What `read_weights` returned.
        sources: `(name, array)` pairs, the Keras weights.

    Returns:
        A dict from the names of pruned weights (matrices and kernels with some
        zeros, but not zeros only) to the names of the tensors that have at least the
        same zeros: one, four for the gates of an LSTM, none if the zeros are gone.
    """
    weights = [weight for weight in weights if weight.zeros is not None]
    found = {}
    for name, array in sources:
        zeros = np.asarray(array) == 0
        if zeros.ndim < 2 or not zeros.any() or zeros.all():
            continue
        found[name] = _holders(weights, [zeros])
        if not found[name] and zeros.shape[-1] % 4 == 0:
            found[name] = _holders(weights, np.split(zeros, 4, axis=-1))
    return found


def _holders(weights, parts):
    """The name of a tensor for every part, or `()` if one is not to be found."""
    names = []
    for zeros in parts:
        holders = [weight for weight in weights if _holds(weight, zeros)]
        if not holders:
            return ()
        # Quantization adds a few zeros by rounding; another weight has many more.
        names.append(min(holders, key=lambda weight: weight.zero_fraction).name)
    return tuple(names)


def _holds(weight, zeros):
    """Whether a tensor, in one of the usual layouts, is zero wherever `zeros` is."""
    if weight.zeros.size != zeros.size:
        return False
    flat = weight.zeros.reshape(-1)
    # (..., in, out) becomes (out, ..., in); attention also folds its head axes into
    # rows or columns; depthwise kernels stay; transposed convolutions move axis -2.
    splits = [np.prod(zeros.shape[:axis], dtype=int) for axis in range(1, zeros.ndim)]
    layouts = [zeros, np.moveaxis(zeros, -2, 0)]
    layouts += [zeros.reshape(rows, -1).T for rows in splits]
    return any(flat[layout.reshape(-1)].all() for layout in layouts)


def _is_weight(tensor, dtype):
    if tensor.shape is None or np.prod(tensor.shape) <= 1:
        return False
    scale = tensor.quantization.scale if tensor.quantization else None
    return dtype in ("float32", "float16") or (scale is not None and len(scale) > 0)


def _weight(tensor, data, dtype):
    shape = tuple(int(size) for size in tensor.shape)
    size = int(np.prod(shape))
    name = tensor.name.decode() if isinstance(tensor.name, bytes) else tensor.name
    stored = _unpack_int4(data, size) if dtype == "int4" else data.view(dtype)
    zero_point = 0
    if tensor.quantization and tensor.quantization.zeroPoint is not None:
        points = np.unique(tensor.quantization.zeroPoint)
        zero_point = points[0] if len(points) == 1 else 0
    is_zero = stored == zero_point
    if tensor.sparsity is not None:
        nonzero = np.count_nonzero(~is_zero)
        return WeightTensor(name, shape, dtype, None, 1 - nonzero / size)
    return WeightTensor(
        name, shape, dtype, is_zero.reshape(shape), is_zero.mean().item()
    )


def _unpack_int4(data, size):
    """Two signed nibbles a byte, the low one first."""
    nibbles = np.stack([data & 15, data >> 4], -1).reshape(-1)[:size].astype(np.int8)
    return np.where(nibbles > 7, nibbles - 16, nibbles)


def _schema():
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:  # TensorFlow carries a copy.
        from tensorflow.lite.python import schema_py_generated
    return schema_py_generated
