"""Quantizers other than TensorFlow Lite's converter keep the zeros, too."""

import numpy as np
import pytest

import smart_tf
from smart_tf import export
from tests.pruned_models import GOLDEN_PATTERNS, GOLDEN_ZEROS, golden

SHAPES = {
    (32, 3, 3, 16): "blocks",
    (16, 1, 1, 32): "two_of_four",
    (32, 16): "quads",
    (8, 32): "channels",
}


def assert_golden(path):
    report = smart_tf.inspect_file(path)
    found = {t.shape: t for t in report.tensors if t.dtype == "int8"}
    assert set(SHAPES) <= set(found)
    for shape, name in SHAPES.items():
        # Other weights of these kernels are far from zero: rounding adds none.
        assert found[shape].zeros == GOLDEN_ZEROS[name]
        assert set(found[shape].patterns) == GOLDEN_PATTERNS[name]


@pytest.mark.parametrize("recipe_name", ["static_wi8_ai8", "dynamic_wi8_afp32"])
def test_the_litert_quantizer(tmp_path, recipe_name):
    quantizer = pytest.importorskip("litert_quantizer.quantizer")
    recipe = pytest.importorskip("litert_quantizer.recipe")
    model = golden()
    export.to_tflite(model, tmp_path / "float.tflite")
    tool = quantizer.Quantizer(str(tmp_path / "float.tflite"))
    tool.load_quantization_recipe(getattr(recipe, recipe_name)())
    x = np.random.default_rng(0).random((8, 8, 8, 16), "float32")
    measured = None
    if tool.need_calibration:
        batches = [{"image": row[None]} for row in x]
        measured = tool.calibrate({"serving_default": batches})
    tool.quantize(measured).export_model(str(tmp_path / "int8.tflite"))
    assert_golden(tmp_path / "int8.tflite")
    found = export.Interpreter(tmp_path / "int8.tflite").run(x)
    wanted = model.predict(x, verbose=0)
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_keras_own_int8_layers(tmp_path):
    model = golden()
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    found = {t.name: t for t in smart_tf.inspect_file(tmp_path / "model.keras").tensors}
    for name in ("quads", "channels"):  # Keras quantizes no convolutions.
        assert found[f"{name}/0"].dtype == "int8"
        assert found[f"{name}/0"].zeros == GOLDEN_ZEROS[name]
        assert set(found[f"{name}/0"].patterns) == GOLDEN_PATTERNS[name]


def test_tensorflow_lites_own_int8(tmp_path):
    x = np.random.default_rng(0).random((8, 8, 8, 16), "float32")
    export.to_tflite(golden(), tmp_path / "int8.tflite", "int8", x)
    assert_golden(tmp_path / "int8.tflite")
