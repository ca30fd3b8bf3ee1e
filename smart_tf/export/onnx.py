"""Keras model -> ONNX file, run by ONNX Runtime."""

import contextlib
import logging

import numpy as np
import tensorflow as tf

from smart_tf.export.conversion import Conversion, export
from smart_tf.export.optional import require
from smart_tf.export.samples import random_array
from smart_tf.export.tensors import WeightTensor

# ONNX's names of types that numpy knows by others.
_DTYPES = {"float": "float32", "double": "float64", "string": "object"}


def to_onnx(
    model,
    path,
    representative_data=None,
    *,
    batch_size=1,
    opset=18,
    require_zeros=True,
):
    """Write a Keras model as an ONNX file (float32), and check the file.

    Needs the extra `onnx`.  The file appears at `path` only after ONNX Runtime has
    loaded and run it, and its outputs and zeros are those of the Keras model.

    Args:
        model: A Keras 3 or tf_keras model, stripped of pruning wrappers.
        path: The file to write, in a folder that exists.
        representative_data: Inputs to compare on, as in `to_tflite`; made up if `None`.
        batch_size: The batch dimension of the file; `None` leaves it open.
        opset: The version of ONNX's operators to write.
        require_zeros: Whether zeros of a pruned weight that are not to be found in the
            file are an error, and not only listed in the report.

    Returns:
        An `ExportReport`.

    Raises:
        ImportError: If the extra is not installed.
        TypeError: If `model` is not a Keras model, or the data is of no known kind.
        ValueError: If another argument is wrong, or nothing can be written at `path`.
        ExportError: If the model does not convert, or the file fails a check.
    """
    return export(
        ONNX(opset), model, path, representative_data, batch_size, require_zeros
    )


class ONNX(Conversion):
    """ONNX files, written by tf2onnx."""

    target = "ONNX"
    runtime = "ONNX Runtime"

    def __init__(self, opset):
        self.opset = opset
        self._tf2onnx = require("tf2onnx", "onnx")
        self._onnx = require("onnx", "onnx")
        self._onnxruntime = require("onnxruntime", "onnx")

    def write(self, signature, path):
        # tf2onnx knows no numpy 2; Keras's own export mends it in the same way.
        from keras.src.export.tf2onnx_lib import patch_tf2onnx

        patch_tf2onnx()
        logging.getLogger("tf2onnx").setLevel(logging.ERROR)
        with self.refusals(), _one_graph():
            self._tf2onnx.convert.from_function(
                signature.function(),
                input_signature=list(signature.specs),
                opset=self.opset,
                output_path=str(path),
            )

    def load(self, path):
        session = self._onnxruntime.InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )
        count = len(session.get_outputs())
        return lambda batch: session.run([f"output_{i}" for i in range(count)], batch)

    def read_weights(self, path):
        tensors = self._onnx.load(str(path)).graph.initializer
        arrays = [(t.name, self._onnx.numpy_helper.to_array(t)) for t in tensors]
        return [
            WeightTensor.of_array(name, array)
            for name, array in arrays
            if array.dtype.kind == "f" and array.size > 1
        ]


@contextlib.contextmanager
def _one_graph():
    """What is traced in this block has no functions within functions.

    Keras 3 compiles a grouped convolution as a function of its own, which tf2onnx does
    not look into.
    """
    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(eagerly)


def prepare(path, threads=1):
    """A callable that runs an ONNX file once, on made-up inputs (for timing)."""
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    batch = {}
    for tensor in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in tensor.shape]
        name = tensor.type.removeprefix("tensor(").removesuffix(")")
        dtype = np.dtype(_DTYPES.get(name, name))
        batch[tensor.name] = random_array(shape, dtype, rng)
    return lambda: session.run(None, batch)
