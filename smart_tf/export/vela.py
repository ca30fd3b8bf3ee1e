"""`.tflite` -> Arm Ethos-U, compiled and estimated by Arm's Vela."""

import csv
import pathlib
import shutil
import subprocess
import sys
import tempfile

from smart_tf.export.ethos_u_report import EthosUReport, LayerCycles
from smart_tf.export.optional import require
from smart_tf.export.report import ExportError
from smart_tf.export.staging import staged
from smart_tf.export.tensors import activation_types, operator_names, read_model

_U55_SMALL = ("Ethos_U55_Deep_Embedded", "Shared_Sram")
_U55 = ("Ethos_U55_High_End_Embedded", "Shared_Sram")
_U65 = ("Ethos_U65_High_End", "Dedicated_Sram")
_U85_SMALL = ("Ethos_U85_SYS_DRAM_Low", "Dedicated_Sram_384KB")
_U85 = ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB")
_U85_LARGE = ("Ethos_U85_SYS_DRAM_High", "Dedicated_Sram_512KB")

ACCELERATORS = {
    **{"ethos-u55-32": _U55_SMALL, "ethos-u55-64": _U55_SMALL},
    **{"ethos-u55-128": _U55, "ethos-u55-256": _U55},
    **{"ethos-u65-256": _U65, "ethos-u65-512": _U65},
    **{"ethos-u85-128": _U85_SMALL, "ethos-u85-256": _U85_SMALL},
    **{"ethos-u85-512": _U85, "ethos-u85-1024": _U85, "ethos-u85-2048": _U85_LARGE},
}
"""Per accelerator (MACs per cycle last): the system configuration and the memory mode
in Arm's `vela.ini` that is assumed unless another is given.  The smallest U55 are
reckoned at 200 MHz, the other U55 and small U85 at 500 MHz, the others at 1 GHz."""

_NPU_OPERATOR = "ethos-u"


def compile_for_ethos_u(
    tflite_path,
    accelerator="ethos-u55-128",
    *,
    output_path=None,
    dense=None,
    system_config=None,
    memory_mode=None,
    config="Arm/vela.ini",
):
    """Compile an int8 `.tflite` file for an Arm Ethos-U, and estimate how it runs.

    Needs the extra `vela`, and no hardware.  The cycles are Vela's estimates.

    Example:

    ```python
    smart_tf.export.to_tflite(final, "model.tflite", "int8", x_train[:500])
    print(smart_tf.export.compile_for_ethos_u("model.tflite", dense="dense.tflite"))
    ```

    Args:
        tflite_path: An int8 (or int16) file, as `to_tflite(..., quantize="int8")` and
            other tools write them.
        accelerator: One of `ACCELERATORS`, such as `"ethos-u85-512"`.
        output_path: The compiled file to write; by default beside `tflite_path`, with
            `_vela` added to its name.
        dense: The file of the dense model, to be compiled in the same way and put
            beside this one in the report.
        system_config: A system configuration in `config`; `None` picks one for the
            accelerator.
        memory_mode: A memory mode in `config`; likewise.
        config: A `vela.ini` of your own, or one that comes with Vela.

    Returns:
        An `EthosUReport`.

    Raises:
        ImportError: If the extra is not installed.
        ValueError: If an argument is wrong, or the model is not quantized.
        ExportError: If Vela cannot compile the model, or runs none of it on the NPU.
    """
    require("ethosu.vela", "vela")
    if accelerator not in ACCELERATORS:
        raise ValueError(
            f"Argument `accelerator` must be one of {', '.join(ACCELERATORS)}. "
            f"Received: accelerator={accelerator!r}"
        )
    _check_quantized("tflite_path", tflite_path)
    if dense is not None:
        _check_quantized("dense", dense)
    systems = ACCELERATORS[accelerator]
    options = {
        "accelerator-config": accelerator,
        "config": config,
        "system-config": system_config or systems[0],
        "memory-mode": memory_mode or systems[1],
    }
    source = pathlib.Path(tflite_path)
    output_path = output_path or source.with_name(f"{source.stem}_vela.tflite")
    if pathlib.Path(output_path).resolve() == source.resolve():
        raise ValueError(
            "Argument `output_path` must be another file than `tflite_path`. "
            f"Received: output_path={str(output_path)!r}"
        )
    with staged(output_path, argument="output_path") as staging:
        report = _compile(source, options, staging, output_path)
        if dense is not None:
            with tempfile.TemporaryDirectory() as folder:
                other = pathlib.Path(folder, "dense.tflite")
                beside = _compile(pathlib.Path(dense), options, other, dense)
            report = report.beside(beside)
    return report


def _check_quantized(name, path):
    if not pathlib.Path(path).is_file():
        raise ValueError(f"Argument `{name}` must be a file. Received: {str(path)!r}")
    types = activation_types(read_model(path))
    if not {"int8", "uint8", "int16"} & set(types):
        raise ValueError(
            f"Argument `{name}` must be an int8 model, which is what the Ethos-U "
            "computes with: export it with "
            "`to_tflite(model, path, quantize='int8', representative_data=...)`. "
            f"Received: {str(path)!r}, which computes in {', '.join(sorted(types))}"
        )


def _compile(source, options, output, label):
    """Run Vela in a process of its own; `output` is the compiled file."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        command = [sys.executable, "-m", "ethosu.vela", str(source)]
        command += [f"--{key}={value}" for key, value in options.items()]
        command += ["--verbose-performance", f"--output-dir={folder}"]
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        compiled = folder / f"{source.stem}_vela.tflite"
        if done.returncode or not compiled.is_file():
            raise ExportError(
                f"Vela cannot compile {str(source)!r} for {options}: "
                f"{_complaint(done.stdout + done.stderr)}"
            )
        on_npu, on_cpu = _placement(compiled)
        if not on_npu:
            raise ExportError(
                f"Vela left all of {str(source)!r} to the CPU: {', '.join(on_cpu)}. "
                f"{_complaint(done.stdout)}"
            )
        (summary,) = folder.glob("*_summary_*.csv")
        (layers,) = folder.glob("*_per-layer.csv")
        report = _read_report(summary, layers, label, on_cpu)
        shutil.copy(compiled, output)
    return report


def _placement(compiled):
    """How many command streams for the NPU a compiled file has; what it leaves over."""
    model = read_model(compiled)
    names = [name for graph in model.subgraphs for name in operator_names(model, graph)]
    on_cpu = tuple(name for name in names if name != _NPU_OPERATOR)
    return len(names) - len(on_cpu), on_cpu


def _read_report(summary, layers, label, on_cpu):
    with open(summary, newline="") as file:
        (row,) = csv.DictReader(file)
    with open(layers, newline="") as file:
        rows = [_layer(line) for line in csv.DictReader(file) if _on_npu(line)]

    def kibibytes(*areas):
        return round(1024 * sum(float(row[f"{area}_memory_used"]) for area in areas))

    return EthosUReport(
        path=str(label),
        accelerator=row["accelerator_configuration"].lower().replace("_", "-"),
        system_config=row["system_config"],
        memory_mode=row["memory_mode"],
        cycles=round(float(row["cycles_total"])),
        npu_cycles=round(float(row["cycles_npu"])),
        inferences_per_second=float(row["inferences_per_second"]),
        sram_bytes=kibibytes("sram"),
        dram_bytes=kibibytes("dram"),
        flash_bytes=kibibytes("on_chip_flash", "off_chip_flash"),
        original_weight_bytes=round(float(row["total_original_weights"])),
        encoded_weight_bytes=round(float(row["total_npu_encoded_weights"])),
        macs=round(float(row["nn_macs"])),
        cpu_operators=on_cpu,
        layers=tuple(rows),
    )


def _on_npu(line):
    return line["Target"] == "NPU"


def _layer(line):
    return LayerCycles(
        name=line["Name"],
        operator=line["Original Operator"],
        cycles=round(float(line["Op Cycles"])),
        macs=round(float(line["MAC Count"])),
    )


def _complaint(output):
    """What Vela said was wrong, without the traceback around it."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("Error", "Warning"))]
    return " ".join((telling or lines)[-8:]) or "it said nothing"
