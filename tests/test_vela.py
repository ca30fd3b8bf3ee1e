"""Compiling for Arm Ethos-U; the reference is Vela itself, and its csv files."""

import csv
import subprocess
import sys

import keras
import numpy as np
import pytest

from smart_tf import export
from tests.pruned_models import convnet, images

pytest.importorskip("ethosu.vela")


def wide(zeroed_outputs=0):
    """Convolutions whose weights are most of the traffic."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(64, 3, padding="same") for _ in range(3)]
    model = keras.Sequential([keras.Input((8, 8, 64)), *layers])
    for layer in layers:
        kernel = layer.kernel.numpy()
        kernel[:, :, :, :zeroed_outputs] = 0
        layer.kernel.assign(kernel)
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small int8 file, and a sparse and a dense one of the same network."""
    folder = tmp_path_factory.mktemp("vela")
    x = np.random.default_rng(0).random((8, 8, 8, 64), "float32")
    export.to_tflite(convnet(), folder / "small.tflite", "int8", images())
    export.to_tflite(wide(48), folder / "sparse.tflite", "int8", x)
    export.to_tflite(wide(), folder / "dense.tflite", "int8", x)
    return folder


def own_csv(path, folder, accelerator, system, memory):
    """What Vela writes when it is run by hand."""
    subprocess.run(
        [sys.executable, "-m", "ethosu.vela", path, "--output-dir", folder]
        + ["--accelerator-config", accelerator, "--config", "Arm/vela.ini"]
        + ["--system-config", system, "--memory-mode", memory, "--verbose-performance"],
        check=True,
        capture_output=True,
    )
    with open(next(folder.glob("*_summary_*.csv"))) as file:
        (summary,) = csv.DictReader(file)
    with open(next(folder.glob("*_per-layer.csv"))) as file:
        return summary, list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("accelerator", "system", "memory"),
    [
        ("ethos-u55-128", "Ethos_U55_High_End_Embedded", "Shared_Sram"),
        ("ethos-u65-512", "Ethos_U65_High_End", "Dedicated_Sram"),
        ("ethos-u85-512", "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB"),
    ],
)
def test_report_holds_what_vela_wrote(files, tmp_path, accelerator, system, memory):
    compiled = tmp_path / "out.tflite"
    report = export.compile_for_ethos_u(
        files / "small.tflite", accelerator, output_path=compiled
    )
    (tmp_path / "own").mkdir()
    arguments = (files / "small.tflite", tmp_path / "own", accelerator, system, memory)
    summary, layers = own_csv(*arguments)
    assert report.accelerator == accelerator
    assert report.cycles == int(summary["cycles_total"])
    assert report.inferences_per_second == pytest.approx(
        float(summary["core_clock"]) / int(summary["cycles_total"]), rel=1e-3
    )
    assert report.sram_bytes == 1024 * float(summary["sram_memory_used"])
    flash = summary["off_chip_flash_memory_used"], summary["on_chip_flash_memory_used"]
    assert report.flash_bytes == 1024 * sum(map(float, flash))
    assert report.dram_bytes == 1024 * float(summary["dram_memory_used"])
    assert report.encoded_weight_bytes == int(summary["total_npu_encoded_weights"])
    # first 3x3x3x8, depthwise 3x3x8, second 3x3x8x16, logits 16x10, and more.
    assert report.original_weight_bytes >= 216 + 72 + 1152 + 160
    assert report.macs == int(summary["nn_macs"])
    assert [layer.cycles for layer in report.layers] == [
        int(layer["Op Cycles"]) for layer in layers
    ]
    assert {"Conv2D", "DepthwiseConv2D"} <= {layer.operator for layer in report.layers}
    assert report.cpu_operators == ()
    own = next((tmp_path / "own").glob("*_vela.tflite"))
    assert compiled.read_bytes() == own.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("accelerator", export.ACCELERATORS)
def test_every_accelerator_has_a_system_that_vela_knows(files, tmp_path, accelerator):
    report = export.compile_for_ethos_u(
        files / "small.tflite", accelerator, output_path=tmp_path / "out.tflite"
    )
    assert report.accelerator == accelerator
    assert (report.system_config, report.memory_mode) == export.ACCELERATORS[
        accelerator
    ]
    assert report.cycles > 0


def test_zeros_cost_fewer_encoded_bytes_than_the_dense_model(files, tmp_path):
    report = export.compile_for_ethos_u(
        files / "sparse.tflite",
        "ethos-u55-256",
        dense=files / "dense.tflite",
        output_path=tmp_path / "out.tflite",
    )
    assert report.weight_ratio < 0.5
    assert report.speed_up > 1
    assert report.dense.cycles == report.cycles * report.speed_up
    assert report.original_weight_bytes == report.dense.original_weight_bytes
    text = str(report)
    assert "ratio" in text and "weights encoded" in text and "nothing" in text
    data = report.to_dict()
    assert data["dense"]["cycles"] == report.dense.cycles
    assert data["layers"][0]["cycles"] == report.layers[0].cycles
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.tflite"]


def test_a_dense_model_without_weights_on_the_npu_has_no_ratio(files, tmp_path):
    layers = [keras.Input((8, 8, 3)), keras.layers.MaxPooling2D()]
    x = np.random.default_rng(0).random((4, 8, 8, 3), "float32")
    export.to_tflite(keras.Sequential(layers), tmp_path / "pool.tflite", "int8", x)
    report = export.compile_for_ethos_u(
        files / "small.tflite", dense=tmp_path / "pool.tflite"
    )
    assert report.weight_ratio is None
    assert report.to_dict()["weight_ratio"] is None


def test_the_source_is_not_overwritten(files):
    before = (files / "small.tflite").read_bytes()
    with pytest.raises(ValueError, match="`output_path` must be another file"):
        export.compile_for_ethos_u(
            files / "small.tflite", output_path=files / "small.tflite"
        )
    assert (files / "small.tflite").read_bytes() == before


def test_the_compiled_file_goes_beside_the_model(files):
    report = export.compile_for_ethos_u(files / "small.tflite")
    assert report.path == str(files / "small_vela.tflite")
    assert (files / "small_vela.tflite").is_file()


def test_operators_left_to_the_cpu_are_named(tmp_path):
    inputs = keras.Input((4, 4, 8))
    x = keras.layers.Conv2D(8, 1)(inputs)
    model = keras.Model(inputs, keras.ops.sin(x))
    x = np.random.default_rng(0).random((4, 4, 4, 8), "float32")
    export.to_tflite(model, tmp_path / "sin.tflite", "int8", x)
    report = export.compile_for_ethos_u(tmp_path / "sin.tflite")
    assert "SIN" in report.cpu_operators
    assert "SIN" in str(report)
    assert "Conv2D" in {layer.operator for layer in report.layers}


def test_a_float_model_is_refused_with_what_to_do(tmp_path):
    for quantize in (None, "float16", "dynamic"):
        path = tmp_path / f"{quantize}.tflite"
        export.to_tflite(convnet(), path, quantize)
        with pytest.raises(ValueError, match=r"`tflite_path` must be an int8.*float32"):
            export.compile_for_ethos_u(path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_model_that_stays_on_the_cpu_is_refused(tmp_path):
    class Cpu(keras.layers.Layer):
        def call(self, x):
            return keras.ops.floor(x)

    model = keras.Sequential([keras.Input((4,)), Cpu()])
    path = tmp_path / "floor.tflite"
    export.to_tflite(model, path, "int8", np.random.default_rng(0).random((8, 4)) * 9)
    with pytest.raises(export.ExportError, match="left all of .* to the CPU.*FLOOR"):
        export.compile_for_ethos_u(path)
    assert [file.name for file in tmp_path.iterdir()] == ["floor.tflite"]


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "`accelerator` must be one of", {"accelerator": "ethos-u55"}),
        (ValueError, "`tflite_path` must be a file", {"tflite_path": "no.tflite"}),
        (ValueError, "`dense` must be a file", {"dense": "no.tflite"}),
        (ValueError, "`output_path` must be a file", {"output_path": "/proc/o"}),
        (
            export.ExportError,
            "Vela cannot compile.*My_Own_System",
            {"system_config": "My_Own_System"},
        ),
    ],
)
def test_wrong_arguments_are_named(files, tmp_path, error, message, arguments):
    arguments = {
        "tflite_path": files / "small.tflite",
        "output_path": tmp_path / "out.tflite",
        **arguments,
    }
    with pytest.raises(error, match=message) as raised:
        export.compile_for_ethos_u(**arguments)
    assert "Traceback" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_models_are_refused(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"not a flatbuffer at all")
    with pytest.raises(ValueError, match="must be a .tflite file"):
        export.compile_for_ethos_u(path)


def test_the_missing_extra_is_named(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "ethosu.vela", None)
    with pytest.raises(ImportError, match=r"pip install 'smart-tf\[vela\]'"):
        export.compile_for_ethos_u(files / "small.tflite")
