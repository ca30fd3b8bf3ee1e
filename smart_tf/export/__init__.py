"""From a Keras model to files that devices run."""

from smart_tf.export.latency import LatencyReport, LatencyRow, benchmark
from smart_tf.export.report import ExportError, ExportReport, TensorRow
from smart_tf.export.runtime import Interpreter
from smart_tf.export.tensors import WeightTensor, read_weights
from smart_tf.export.tflite import to_tflite

__all__ = [
    "ExportError",
    "ExportReport",
    "Interpreter",
    "LatencyReport",
    "LatencyRow",
    "TensorRow",
    "WeightTensor",
    "benchmark",
    "read_weights",
    "to_tflite",
]
