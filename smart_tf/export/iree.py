"""Keras model -> TOSA -> IREE module, the compiler route to CPUs and to many NPUs."""

import pathlib
import tempfile

from smart_tf.export.conversion import check_model, export
from smart_tf.export.optional import require
from smart_tf.export.runtime import Interpreter, dequantized, quantized
from smart_tf.export.tensors import read_model
from smart_tf.export.tflite import TFLite, check_quantize

QUANTIZE = (None, "int8")


def to_iree(
    model,
    path,
    quantize=None,
    representative_data=None,
    *,
    target_cpu="generic",
    require_zeros=True,
):
    """Compile a Keras model with IREE for a CPU, by way of TFLite and TOSA; check it.

    Needs the extra `iree`.  The module appears at `path` only after IREE's runtime has
    loaded and run it, and its outputs and zeros are those of the Keras model.

    Args:
        model: A Keras 3 or tf_keras model, stripped of pruning wrappers.
        path: The `.vmfb` file to write, in a folder that exists.
        quantize: `None` (float32) or `"int8"`.
        representative_data: As in `to_tflite`; needed for `"int8"`.
        target_cpu: LLVM's name of the CPU; `"host"` is the one that this runs on.
        require_zeros: Whether zeros of a pruned weight that are not to be found are an
            error, and not only listed in the report.

    Returns:
        An `ExportReport`, with the tensors of the `.tflite` file that was compiled.

    Raises:
        ImportError: If the extra is not installed.
        TypeError: If `model` is not a Keras model, or the data is of no known kind.
        ValueError: If another argument is wrong, or nothing can be written at `path`.
        ExportError: If the model does not convert, or the module fails a check.
    """
    check_model(model)
    check_quantize(quantize, representative_data, QUANTIZE)
    conversion = IREE(quantize, representative_data, target_cpu)
    return export(
        conversion, model, path, representative_data, require_zeros=require_zeros
    )


class IREE(TFLite):
    """IREE's compiled modules (`.vmfb`)."""

    target = "IREE"
    runtime = "IREE"

    def __init__(self, quantize, representative_data, target_cpu):
        super().__init__(quantize, representative_data)
        self.target_cpu = target_cpu
        self._tosa = require("tosa_converter_for_tflite", "iree")
        self._compiler = require("iree.compiler.tools", "iree")
        self._runtime = require("iree.runtime", "iree")

    def write(self, signature, path):
        with tempfile.TemporaryDirectory() as folder:
            tflite = pathlib.Path(folder, "model.tflite")
            super().write(signature, tflite)
            self._weights = super().read_weights(tflite)
            self._in_floats = super().float_operators(tflite)
            self._details = _tensors_in_order(tflite)
            tosa = str(pathlib.Path(folder, "model.mlirbc"))
            with self.refusals():
                self._tosa.tflite_flatbuffer_to_tosa_mlir(str(tflite), tosa)
                self._compiler.compile_file(
                    tosa,
                    output_file=str(path),
                    input_type="tosa",
                    target_backends=["llvm-cpu"],
                    extra_args=[f"--iree-llvmcpu-target-cpu={self.target_cpu}"],
                )

    def load(self, path):
        module = self._runtime.load_vm_flatbuffer_file(str(path), driver="local-sync")
        inputs, outputs = self._details

        def run(batch):
            arrays = [quantized(batch[name], detail) for name, detail in inputs]
            found = module.main(*arrays)
            found = found if isinstance(found, list | tuple) else [found]
            named = {
                name: dequantized(array.to_host(), detail)
                for (name, detail), array in zip(outputs, found, strict=True)
            }
            return [named[f"output_{i}"] for i in range(len(named))]

        return run

    def read_weights(self, path):
        return self._weights

    def float_operators(self, path):
        return self._in_floats


def _tensors_in_order(path):
    """Names and descriptions of inputs and outputs, in the order of the TOSA function.

    That is the order of the graph, and a signature need not have the same.
    """
    graph, interpreter = read_model(path).subgraphs[0], Interpreter(path)
    return [
        sorted(details.items(), key=lambda item: list(order).index(item[1]["index"]))
        for details, order in (
            (interpreter.input_details, graph.inputs),
            (interpreter.output_details, graph.outputs),
        )
    ]
