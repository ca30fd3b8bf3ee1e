"""Optional compilers: IREE through TOSA, and adder trees for FPGAs."""

import sys

import keras
import numpy as np
import pytest

from smart_tf import export
from tests.pruned_models import convnet, images, two_by_two


def dense(zeroed=()):
    model = keras.Sequential(
        [keras.Input((16,)), keras.layers.Dense(32, use_bias=False, name="matrix")]
    )
    kernel = np.random.default_rng(0).normal(size=(16, 32))
    for rows, columns in zeroed:
        kernel[rows, columns] = 0
    model.get_layer("matrix").kernel.assign(kernel)
    return model


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_iree_computes_what_the_model_computes(tmp_path, quantize):
    pytest.importorskip("tosa_converter_for_tflite")
    pytest.importorskip("iree.compiler")
    model, path = convnet(), tmp_path / "model.vmfb"
    report = export.to_iree(model, path, quantize, images(), target_cpu="host")
    assert report.bytes == path.stat().st_size
    assert report.relative_difference < (1e-4 if quantize is None else 0.1)
    assert report.pattern_kept and report.target == "IREE"
    zeros = {row.source: row.zero_fraction for row in report.tensors if row.source}
    assert zeros["net/first/kernel"] >= 4 / 8


def test_iree_keeps_the_order_of_several_outputs(tmp_path):
    pytest.importorskip("tosa_converter_for_tflite")
    runtime = pytest.importorskip("iree.runtime")
    model, path = two_by_two(), tmp_path / "model.vmfb"
    assert export.to_iree(model, path).max_difference < 1e-5
    module = runtime.load_vm_flatbuffer_file(str(path), driver="local-sync")
    x = np.ones((1, 4), "float32"), np.ones((1, 6), "float32")
    by_size = {4: x[0], 6: x[1]}
    shapes = [(4, 6), (6, 4)]
    for first, second in shapes:
        try:
            found = module.main(by_size[first], by_size[second])
            break
        except ValueError:
            continue
    wanted = {tuple(y.shape): y for y in model(list(x))}
    for output in found:
        values = output.to_host()
        np.testing.assert_allclose(values, wanted[values.shape], atol=1e-5)


def test_iree_takes_float32_and_int8_only(tmp_path):
    with pytest.raises(ValueError, match="`quantize` must be one of"):
        export.to_iree(convnet(), tmp_path / "model.vmfb", "dynamic")
    with pytest.raises(ValueError, match="`representative_data` must be given"):
        export.to_iree(convnet(), tmp_path / "model.vmfb", "int8")
    assert list(tmp_path.iterdir()) == []


def test_zeros_need_no_adders(tmp_path):
    pytest.importorskip("da4ml")
    x = np.random.default_rng(1).normal(size=(16, 16)).astype("float32")
    half = [(slice(0, 8), slice(0, 16)), (slice(8, 16), slice(16, 32))]
    reports = []
    for name, zeroed in (("dense", []), ("half", half), ("all but one", [(0, 0)])):
        path = tmp_path / f"{name}.tflite"
        export.to_tflite(dense(zeroed), path, "int8", x)
        reports.append(export.fpga_adders(path))
    full, half, one = (report.rows[0] for report in reports)
    assert full.shape == half.shape == (16, 32)
    assert half.zeros >= 256
    assert 0.35 < half.adders / full.adders < 0.65
    assert one.adders == pytest.approx(full.adders, rel=0.05)
    assert "adders" in str(reports[0])
    assert reports[0].to_dict()["adders"] == full.adders


def test_what_is_too_large_or_not_int8_is_said(tmp_path):
    pytest.importorskip("da4ml")
    export.to_tflite(convnet(), tmp_path / "int8.tflite", "int8", images())
    report = export.fpga_adders(tmp_path / "int8.tflite", max_weights=300)
    assert sorted(report.left_out.values()) == [
        "1,152 weights",
        "the kernel has no input axis",
    ]
    assert {row.shape for row in report.rows} == {(27, 8), (16, 10)}
    export.to_tflite(convnet(), tmp_path / "float.tflite")
    with pytest.raises(ValueError, match="`tflite_path` must be a file with int8"):
        export.fpga_adders(tmp_path / "float.tflite")


@pytest.mark.parametrize(
    ("function", "module", "extra"),
    [
        (export.to_iree, "tosa_converter_for_tflite", "iree"),
        (export.fpga_adders, "da4ml.cmvm", "fpga"),
    ],
)
def test_missing_extras_are_named(tmp_path, monkeypatch, function, module, extra):
    path = tmp_path / "model.tflite"
    monkeypatch.setitem(sys.modules, module, None)
    arguments = (convnet(), path) if extra == "iree" else (path,)
    with pytest.raises(ImportError, match=rf"pip install 'smart-tf\[{extra}\]'"):
        function(*arguments)
