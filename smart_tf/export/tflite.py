"""Keras model -> `.tflite` file that has been loaded back, run and compared."""

import contextlib
import gzip
import os
import pathlib
import warnings

import numpy as np
import tensorflow as tf

from smart_tf.export.report import ExportError, ExportReport, TensorRow
from smart_tf.export.runtime import Interpreter
from smart_tf.export.samples import (
    check_representative_data,
    sample_batches,
    verification_batches,
)
from smart_tf.export.signature import get_signature, is_keras_model
from smart_tf.export.tensors import match_weights, read_weights

QUANTIZE = (None, "float16", "dynamic", "int8")

# How far a file's outputs may be from the Keras model's, as a share of the largest
# output.  float32 must agree; the others lose precision by design, and only a
# difference that no rounding explains is an error.
TOLERANCE = {None: 1e-3, "float16": 0.1, "dynamic": 0.5, "int8": 1.0}
VERIFICATION_BATCHES = 8


def to_tflite(model, path, quantize=None, representative_data=None, *, batch_size=1):
    """Write a Keras model as a `.tflite` file, and check the file.

    The file appears at `path` only after it has been loaded by the LiteRT
    interpreter, run, and compared with the Keras model.

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
            (everything int8, inputs and outputs included).
        representative_data: Inputs as the model will see them: an array, a list,
            tuple or dict of arrays with one per input, a `tf.data.Dataset`, or a
            callable that returns an iterator over batches of inputs.  Needed for
            `"int8"`, whose ranges are taken from the first 512 samples; otherwise
            used, if given, for the comparison.
        batch_size: The batch dimension of the file; `None` leaves it open, which
            some accelerators and recurrent layers do not accept.

    Returns:
        An `ExportReport`.
    """
    path = pathlib.Path(path)
    _check_arguments(model, path, quantize, representative_data, batch_size)
    signature = get_signature(model, batch_size)
    content = _convert(signature, quantize, representative_data)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        batches = verification_batches(
            representative_data, signature, VERIFICATION_BATCHES
        )
        difference, relative = _compare(signature, partial, batches, quantize)
        tensors, lost = _tensor_rows(model, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return ExportReport(
        path=str(path),
        quantize=quantize,
        bytes=len(content),
        gzip_bytes=len(gzip.compress(content, compresslevel=9)),
        tensors=tensors,
        lost=lost,
        max_difference=difference,
        relative_difference=relative,
        samples=sum(len(batch[0]) for batch in batches),
    )


def _check_arguments(model, path, quantize, representative_data, batch_size):
    if not is_keras_model(model):
        raise TypeError(
            "Argument `model` must be a Keras model. "
            f"Received: model={model} (of type {type(model)})"
        )
    _check_layers(list(model._flatten_layers()))
    if quantize not in QUANTIZE:
        raise ValueError(
            f"Argument `quantize` must be one of {QUANTIZE}. "
            f"Received: quantize={quantize!r}"
        )
    if representative_data is not None:
        check_representative_data(representative_data)
    elif quantize == "int8":
        raise ValueError(
            "Argument `representative_data` must be given with `quantize='int8'`: the "
            "ranges of the activations are measured on it. "
            "Received: representative_data=None"
        )
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(
            "Argument `batch_size` must be a positive integer or None. "
            f"Received: batch_size={batch_size!r}"
        )
    if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(
            "Argument `path` must be a file in a folder that exists and can be "
            f"written to. Received: path={str(path)!r}"
        )


def _check_layers(layers):
    wrapped = [x.name for x in layers if getattr(x, "is_pruning_wrapper", False)]
    if wrapped:
        raise ValueError(
            "Argument `model` must not wear pruning wrappers: call "
            "`smart_tf.strip_pruning(model)` first. "
            f"Received: a model with wrapped layers {wrapped}"
        )
    halves = [x.name for x in layers if x.compute_dtype in ("float16", "bfloat16")]
    if halves:
        raise ValueError(
            "Argument `model` must compute in float32, which is all that the converter "
            "knows: build it again without mixed precision and copy the weights "
            "(`set_weights`). Received: a model that computes in half precision in "
            f"layers {halves}"
        )


def _convert(signature, quantize, representative_data):
    """Run the converter over the model's inference graph; returns the file's bytes."""
    function = signature.concrete_function()
    if quantize == "int8":
        _refuse_loops(function)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function], signature.trackable()
    )
    if quantize is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        # Read everything first: an error raised inside the converter's own call of
        # the generator would reach the user as a converter's error.
        batches = [
            dict(zip(signature.names, batch, strict=True))
            for batch in sample_batches(representative_data, signature)
        ]
        converter.representative_dataset = lambda: iter(batches)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    try:
        with _quiet_converter():
            return converter.convert()
    except Exception as error:
        raise ExportError(
            f"The TensorFlow Lite converter cannot convert the model "
            f"(quantize={quantize!r}): {error}"
        ) from error


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


def _compare(signature, path, batches, quantize):
    """Run file and Keras model side by side: absolute and relative difference."""
    try:
        interpreter = Interpreter(path)
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"The converted model (quantize={quantize!r}) does not load in the LiteRT "
            "interpreter; a layer whose channels are all zero is a common cause, see "
            f"`max_layer_sparsity`. The interpreter said: {error}"
        ) from error
    difference, largest = 0.0, 0.0
    for batch in batches:
        named = dict(zip(signature.names, batch, strict=True))
        found = interpreter.run_named(named).values()
        for got, wanted in zip(found, signature.call(*batch), strict=True):
            wanted = np.asarray(wanted, np.float64)
            got = np.asarray(got, np.float64)
            if not np.isfinite(got).all() or not np.isfinite(wanted).all():
                raise ExportError(
                    "The outputs must be finite. Received: NaN or infinity from the "
                    f"{'converted' if np.isfinite(wanted).all() else 'Keras'} model"
                )
            difference = max(difference, np.abs(got - wanted).max().item())
            largest = max(largest, np.abs(wanted).max().item())
    # A model that answers 0 to everything has no scale to relate to.
    relative = difference / largest if largest > 1e-6 else difference
    if relative > TOLERANCE[quantize]:
        raise ExportError(
            f"The converted model (quantize={quantize!r}) does not compute what the "
            f"Keras model computes: their outputs differ by {difference:.3g}, which "
            f"is {relative:.3g} of the largest output "
            f"(allowed: {TOLERANCE[quantize]})"
        )
    return difference, relative


def _tensor_rows(model, path):
    """The file's weights as rows, and the pruned Keras weights it does not hold."""
    weights = read_weights(path)
    sources = [
        (getattr(variable, "path", variable.name), np.asarray(variable))
        for variable in model.weights
    ]
    found = match_weights(weights, sources)
    names = {tensor: source for source in found for tensor in found[source]}
    rows = tuple(
        TensorRow(w.name, w.shape, w.dtype, w.zero_fraction, names.get(w.name, ""))
        for w in weights
    )
    return rows, tuple(source for source in found if not found[source])
