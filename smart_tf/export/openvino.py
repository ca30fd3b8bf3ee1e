"""Keras model -> OpenVINO's intermediate representation."""

import pathlib

import numpy as np

from smart_tf.export.conversion import Conversion, export
from smart_tf.export.optional import require
from smart_tf.export.samples import random_array
from smart_tf.export.tensors import WeightTensor

# float16 weights are what OpenVINO stores by default; the arithmetic stays float32.
TOLERANCE = {None: 1e-3, "float16": 0.1}


def to_openvino(
    model,
    path,
    quantize=None,
    representative_data=None,
    *,
    batch_size=1,
    require_zeros=True,
):
    """Write a Keras model as an OpenVINO model (`.xml` and `.bin`), and check it.

    Needs the extra `openvino`.  The files appear only after OpenVINO has loaded and run
    them on the CPU, and their outputs and zeros are those of the Keras model.

    Args:
        model: A Keras 3 or tf_keras model, stripped of pruning wrappers.
        path: The `.xml` file to write, in a folder that exists; the weights go beside
            it, into a `.bin` file of the same name.
        quantize: `None` (float32) or `"float16"` (weights stored as float16).
        representative_data: Inputs to compare on, as in `to_tflite`; made up if `None`.
        batch_size: The batch dimension of the file; `None` leaves it open.
        require_zeros: Whether zeros of a pruned weight that are not to be found in the
            file are an error, and not only listed in the report.

    Returns:
        An `ExportReport`.

    Raises:
        ImportError: If the extra is not installed.
        TypeError: If `model` is not a Keras model, or the data is of no known kind.
        ValueError: If another argument is wrong, or nothing can be written at `path`.
        ExportError: If the model does not convert, or the files fail a check.
    """
    if pathlib.Path(path).suffix != ".xml":
        raise ValueError(
            f"Argument `path` must end in '.xml'. Received: path={str(path)!r}"
        )
    if quantize not in tuple(TOLERANCE):
        raise ValueError(
            "Argument `quantize` must be None or 'float16' (OpenVINO reads int8 models "
            f"from .tflite files). Received: quantize={quantize!r}"
        )
    return export(
        OpenVINO(quantize), model, path, representative_data, batch_size, require_zeros
    )


class OpenVINO(Conversion):
    """OpenVINO's `.xml` with its `.bin`."""

    target = "OpenVINO"
    runtime = "OpenVINO"

    def __init__(self, quantize=None):
        self.quantize = quantize
        self.tolerance = TOLERANCE[quantize]
        self._openvino = require("openvino", "openvino")

    def write(self, signature, path):
        with self.refusals():
            model = self._openvino.convert_model(signature.concrete_function())
            half = self.quantize == "float16"
            self._openvino.save_model(model, str(path), compress_to_fp16=half)

    def load(self, path):
        # Otherwise a CPU that can computes in bfloat16.
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = self._openvino.Core().compile_model(str(path), "CPU", exact)
        outputs = _in_order(compiled.outputs)
        return lambda batch: [compiled(batch)[output] for output in outputs]

    def read_weights(self, path):
        nodes = self._openvino.Core().read_model(str(path)).get_ops()
        constants = [n for n in nodes if n.get_type_name() == "Constant"]
        arrays = [(n.get_friendly_name(), n.get_data()) for n in constants]
        return [
            WeightTensor.of_array(name, array)
            for name, array in arrays
            if array.dtype.kind == "f" and array.size > 1
        ]


def prepare(path, threads=1):
    """A callable that runs an OpenVINO model once, on made-up inputs (for timing)."""
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    core = require("openvino", "openvino").Core()
    model = core.read_model(str(path))
    shapes = {node: node.partial_shape for node in model.inputs}
    model.reshape(
        {
            node: [1 if size.is_dynamic else size.get_length() for size in shape]
            for node, shape in shapes.items()
        }
    )
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    rng = np.random.default_rng(0)
    for tensor in request.input_tensors:
        tensor.data[:] = random_array(tensor.shape, tensor.data.dtype, rng)
    return request.infer


def _in_order(outputs):
    """By the names `output_0`, `output_1`, ... that the signature gave them."""
    place = {f"output_{i}": i for i in range(len(outputs))}
    return sorted(
        outputs, key=lambda o: min(place[n] for n in o.get_names() if n in place)
    )
