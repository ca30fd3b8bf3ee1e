"""Keras model -> `.tflite` file that has been loaded back, run and compared."""

import contextlib
import warnings

import tensorflow as tf

from smart_tf.export.conversion import Conversion, check_model, export
from smart_tf.export.runtime import Interpreter
from smart_tf.export.samples import sample_batches
from smart_tf.export.tensors import activation_types, read_model, read_weights

# How far an output of a file may be from the Keras model's, as a share of its largest
# value.  float32 must agree; the others lose precision by design, and only a
# difference that no rounding explains is an error.
TOLERANCE = {None: 1e-3, "float16": 0.1, "dynamic": 0.5, "int8": 0.5}

# What became of `Optimize.EXPERIMENTAL_SPARSITY` together with a quantization.
NOT_SPARSE = {
    "float16": "the file computes NaN",
    "dynamic": "the file computes wrong numbers",
    "int8": "the file does not load, or runs slower than without",
}


def to_tflite(
    model,
    path,
    quantize=None,
    representative_data=None,
    *,
    batch_size=1,
    sparse=False,
    require_zeros=True,
):
    """Write a Keras model as a `.tflite` file, and check the file.

    The file appears at `path` only after it has been loaded by the LiteRT
    interpreter, run, compared with the Keras model, and searched for its zeros.

    Example:

    ```python
    final = smart_tf.strip_pruning(pruned)
    print(smart_tf.export.to_tflite(final, "model.tflite"))
    smart_tf.export.to_tflite(
        final, "int8.tflite", quantize="int8", representative_data=x_train[:500]
    )
    ```

    Args:
        model: A Keras 3 or tf_keras model, stripped of pruning wrappers.
        path: The file to write, in a folder that exists.
        quantize: `None` (float32), `"float16"` (weights stored as float16),
            `"dynamic"` (int8 weights, float arithmetic around them), or `"int8"`
            (everything int8, inputs and outputs included, but for operators that
            LiteRT has in floats only: the report names them).
        representative_data: Inputs as the model will see them: an array, a list,
            tuple or dict of arrays with one per input, a `tf.data.Dataset`, or a
            callable that returns a new iterator over batches of inputs.  Needed for
            `"int8"`, whose ranges are taken from the first 512 samples; otherwise
            used, if given, for the comparison.
        batch_size: The batch dimension of the file; `None` leaves it open, which
            some accelerators and recurrent layers do not accept.
        sparse: Whether to store sparse tensors as such: a smaller file, and faster
            dense layers where whole blocks are zero (1x4, 1x16 or 16x8); convolutions
            are only smaller.  For float32 only.
        require_zeros: Whether zeros of a pruned weight that are not to be found in the
            file are an error, and not only listed in the report.

    Returns:
        An `ExportReport`.

    Raises:
        TypeError: If `model` is not a Keras model, or the data is of no known kind.
        ValueError: If another argument is wrong, or nothing can be written at `path`.
        ExportError: If the model does not convert, or the file fails a check.
    """
    check_model(model)
    check_quantize(quantize, representative_data)
    _check_sparse(sparse, quantize)
    conversion = TFLite(quantize, representative_data, sparse)
    return export(
        conversion, model, path, representative_data, batch_size, require_zeros
    )


class TFLite(Conversion):
    """LiteRT's (TensorFlow Lite's) flatbuffer files."""

    target = "TFLite"
    runtime = "the LiteRT interpreter"
    hint = (
        "; a layer whose channels are all zero is a common cause, see "
        "`max_layer_sparsity`"
    )

    def __init__(self, quantize=None, representative_data=None, sparse=False):
        self.quantize = quantize
        self.representative_data = representative_data
        self.sparse = sparse
        self.tolerance = TOLERANCE[quantize]
        if sparse:
            self.wrong_hint = (
                ". Sparse kernels in blocks of 1x4 need a multiple of 4 inputs to be "
                "encoded rightly: leave out `sparse=True`"
            )

    def write(self, signature, path):
        converter = _converter(signature, self)
        with self.refusals(), _quiet_converter():
            path.write_bytes(converter.convert())

    def load(self, path):
        interpreter = Interpreter(path)
        return lambda batch: list(interpreter.run_named(batch).values())

    def read_weights(self, path):
        return read_weights(path)

    def float_operators(self, path):
        if self.quantize != "int8":
            return ()
        names = activation_types(read_model(path)).get("float32", set())
        return tuple(sorted(names - {"DEQUANTIZE"}))


def check_quantize(quantize, representative_data, known=tuple(TOLERANCE)):
    """Raise unless a quantization is known, and has the data that it needs."""
    if quantize not in known:
        raise ValueError(
            f"Argument `quantize` must be one of {known}. "
            f"Received: quantize={quantize!r}"
        )
    if representative_data is None and quantize == "int8":
        raise ValueError(
            "Argument `representative_data` must be given with `quantize='int8'`: the "
            "ranges of the activations are measured on it. "
            "Received: representative_data=None"
        )


def _check_sparse(sparse, quantize):
    if sparse and quantize is not None:
        raise ValueError(
            f"Argument `sparse` must be False with quantize={quantize!r}: TensorFlow "
            f"Lite encodes sparse tensors safely in float32 only (here "
            f"{NOT_SPARSE[quantize]}). Export without it, and compress the file. "
            "Received: sparse=True"
        )


def _converter(signature, settings):
    """The converter for a model's inference graph, with its settings made."""
    function = signature.concrete_function()
    if settings.quantize == "int8":
        _refuse_loops(function)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function], signature.trackable()
    )
    if settings.quantize is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if settings.sparse:
        converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    if settings.quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if settings.quantize == "int8":
        # Read everything first: an error raised inside the converter's own call of
        # the generator would reach the user as a converter's error.
        batches = [
            dict(zip(signature.names, batch, strict=True))
            for batch in sample_batches(settings.representative_data, signature)
        ]
        converter.representative_dataset = lambda: iter(batches)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    return converter


def _refuse_loops(function):
    """int8 calibration of a graph with a loop kills the process (TensorFlow 2.21)."""
    loops = {"While", "StatelessWhile"}
    if loops & {operation.type for operation in function.graph.get_operations()}:
        raise ValueError(
            "Argument `quantize` must not be 'int8' for a model with a loop: build "
            "its recurrent layers with `unroll=True`, or use 'dynamic' or 'float16'. "
            "Received: quantize='int8'"
        )


@contextlib.contextmanager
def _quiet_converter():
    """The converter warns of its own use of a deprecated interpreter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter")
        yield
