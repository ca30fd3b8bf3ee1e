"""From a Keras model to files that devices run."""

from smart_tf.export.adders import AdderReport, AdderRow, fpga_adders
from smart_tf.export.ethos_u_report import EthosUReport, LayerCycles
from smart_tf.export.iree import to_iree
from smart_tf.export.latency import LatencyReport, LatencyRow, benchmark
from smart_tf.export.masks import to_masks
from smart_tf.export.onnx import to_onnx
from smart_tf.export.openvino import to_openvino
from smart_tf.export.report import ExportError, ExportReport, TensorRow
from smart_tf.export.runtime import Interpreter
from smart_tf.export.saved_model import to_saved_model
from smart_tf.export.tensors import WeightTensor, read_weights
from smart_tf.export.tflite import to_tflite
from smart_tf.export.vela import ACCELERATORS, compile_for_ethos_u

__all__ = [
    "ACCELERATORS",
    "AdderReport",
    "AdderRow",
    "EthosUReport",
    "ExportError",
    "ExportReport",
    "Interpreter",
    "LatencyReport",
    "LatencyRow",
    "LayerCycles",
    "TensorRow",
    "WeightTensor",
    "benchmark",
    "compile_for_ethos_u",
    "fpga_adders",
    "read_weights",
    "to_iree",
    "to_masks",
    "to_onnx",
    "to_openvino",
    "to_saved_model",
    "to_tflite",
]
