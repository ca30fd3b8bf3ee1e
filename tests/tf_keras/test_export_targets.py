"""ONNX, OpenVINO, SavedModel, masks and sparse TFLite from tf_keras models."""

import json

import numpy as np
import onnxruntime
import openvino
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

import smart_tf
from smart_tf import export


def convnet():
    model = tf_keras.Sequential(
        [
            tf_keras.Input((12, 12, 3), name="image"),
            tf_keras.layers.Conv2D(8, 3, padding="same", name="first"),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.ReLU(),
            tf_keras.layers.GlobalAveragePooling2D(),
            tf_keras.layers.Dense(16, name="logits"),
        ]
    )
    rng = np.random.default_rng(0)
    for name in ("first", "logits"):
        kernel = rng.normal(0, 0.3, model.get_layer(name).kernel.shape)
        kernel[..., :4] = 0
        model.get_layer(name).kernel.assign(kernel)
    return model


def run_onnx(path, x):
    return onnxruntime.InferenceSession(path).run(["output_0"], {"image": x})[0]


def run_openvino(path, x):
    # Otherwise a CPU that can computes in bfloat16.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(path, "CPU", exact)({"image": x})[0]


def run_saved_model(path, x):
    return tf.saved_model.load(path).signatures["serving_default"](image=x)["output_0"]


@pytest.mark.parametrize(
    ("route", "name", "run"),
    [
        (export.to_onnx, "model.onnx", run_onnx),
        (export.to_openvino, "model.xml", run_openvino),
        (export.to_saved_model, "model", run_saved_model),
    ],
)
def test_the_file_computes_what_the_model_computes(tmp_path, route, name, run):
    model = convnet()
    x = np.random.default_rng(1).random((1, 12, 12, 3), "float32")
    report = route(model, tmp_path / name)
    found = run(str(tmp_path / name), tf.constant(x) if name == "model" else x)
    np.testing.assert_allclose(found, model(x), atol=1e-5)
    rows = {row.source: row for row in report.tensors if row.source}
    assert rows["logits/kernel"].zero_fraction == 4 / 16
    assert rows["first/kernel"].zero_fraction == 4 / 8
    assert "channel" in rows["logits/kernel"].patterns


def test_masks_name_the_layer_and_the_blocks(tmp_path):
    export.to_masks(convnet(), tmp_path / "masks.npz", "4x8")
    content = json.loads((tmp_path / "masks.json").read_text())
    with np.load(tmp_path / "masks.npz") as arrays:
        kept = arrays["logits/kernel"]
    np.testing.assert_array_equal(kept, [[False, True, True, True]])
    kernel = next(k for k in content["kernels"] if k["name"] == "logits/kernel")
    assert (kernel["layer"], kernel["block"]) == ("logits", [8, 4])


def test_sparse_encoding_keeps_numbers_and_zeros(tmp_path):
    model = tf_keras.Sequential(
        [tf_keras.Input((64,)), tf_keras.layers.Dense(64, name="dense")]
    )
    kernel = np.zeros((64, 64), "float32")
    kernel[:16] = 1 + np.arange(64)
    model.get_layer("dense").kernel.assign(kernel)
    plain = export.to_tflite(model, tmp_path / "plain.tflite")
    report = export.to_tflite(model, tmp_path / "sparse.tflite", sparse=True)
    assert plain.bytes - report.bytes > 0.7 * 64 * 64 * 4
    x = np.random.default_rng(1).random((3, 64), "float32")
    found = export.Interpreter(tmp_path / "sparse.tflite").run(x)
    np.testing.assert_allclose(found, x @ kernel, rtol=1e-5)
    assert {row.source: row.zero_fraction for row in report.tensors if row.source} == {
        "dense/kernel": 0.75
    }


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["4x8", "2:4"])
def test_quantization_aware_training_keeps_the_pattern_in_the_file(tmp_path, structure):
    tf_keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 8, 8, 8), "float32"), rng.integers(0, 8, 64)
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 8)),
            layers.Conv2D(16, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(8, name="dense"),
        ]
    )
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruned = smart_tf.prune(model, 0.5, structure)
    pruned.compile("adam", loss)
    callback = smart_tf.SmartPruningCallback(search_epochs=1)
    pruned.fit(x, y, epochs=2, batch_size=16, verbose=0, callbacks=[callback])
    final = smart_tf.strip_pruning(pruned)
    zeros = int(np.sum(final.get_layer("conv").kernel.numpy() == 0))
    trained = tfmot.quantization.keras.quantize_apply(
        tfmot.quantization.keras.quantize_annotate_model(final),
        tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme(),
    )
    trained.compile("adam", loss)
    trained.fit(x, y, epochs=1, batch_size=16, verbose=0)
    report = export.to_tflite(trained, tmp_path / "qat.tflite", "int8", x)
    assert report.pattern_kept
    found = smart_tf.inspect_file(tmp_path / "qat.tflite")
    (conv,) = (t for t in found.tensors if t.shape == (16, 3, 3, 8))
    assert conv.dtype == "int8"
    assert zeros <= conv.zeros <= zeros + 0.1 * conv.size
    if structure == "2:4":
        assert "2:4" in conv.patterns
