"""Exporting tf_keras models to `.tflite`."""

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
import tf_keras
from ai_edge_litert.interpreter import Interpreter as LiteRT

from smart_tf import export


def convnet():
    model = tf_keras.Sequential(
        [
            tf_keras.Input((12, 12, 3), name="image"),
            tf_keras.layers.Conv2D(8, 3, padding="same", name="first"),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.ReLU(),
            tf_keras.layers.Conv2D(16, 3, strides=2, name="second"),
            tf_keras.layers.GlobalAveragePooling2D(),
            tf_keras.layers.Dense(10, name="logits"),
        ]
    )
    rng = np.random.default_rng(0)
    for name in ("first", "second", "logits"):
        kernel = rng.normal(0, 0.3, model.get_layer(name).kernel.shape)
        kernel[..., :4] = 0
        model.get_layer(name).kernel.assign(kernel)
    return model


def images(count=32):
    return np.random.default_rng(1).random((count, 12, 12, 3), "float32")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tflite"


@pytest.mark.parametrize("quantize", [None, "float16", "dynamic", "int8"])
def test_file_agrees_with_the_model_and_keeps_its_zeros(path, quantize):
    model = convnet()
    report = export.to_tflite(model, path, quantize, images())
    assert report.relative_difference < (1e-4 if quantize is None else 0.1)
    assert report.pattern_kept
    by_shape = {row.shape: row.zero_fraction for row in report.tensors}
    assert by_shape[8, 3, 3, 3] >= 4 / 8
    assert by_shape[10, 16] >= 4 / 10
    found = export.Interpreter(path).run(images())
    np.testing.assert_allclose(found, model(images()), atol=0.05)
    wanted = np.int8 if quantize == "int8" else np.float32
    assert LiteRT(str(path)).get_input_details()[0]["dtype"] == wanted


def test_recurrent_functional_and_subclassed_models_export(tmp_path):
    steps = tf_keras.Input((7, 3))
    lstm = tf_keras.layers.LSTM(8)
    recurrent = tf_keras.Model(steps, lstm(steps))
    kernel = np.random.default_rng(0).normal(size=(3, 32))
    kernel[:, ::2] = 0
    lstm.cell.kernel.assign(kernel)
    report = export.to_tflite(recurrent, tmp_path / "lstm.tflite")
    # The fused operator keeps its state between runs; it must not between rows.
    assert report.max_difference < 1e-5
    assert report.pattern_kept

    class Subclassed(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = tf_keras.layers.Dense(4)

        def call(self, inputs):
            return self.dense(inputs)

    model = Subclassed()
    model(np.zeros((2, 5), "float32"))
    assert export.to_tflite(model, tmp_path / "sub.tflite").max_difference < 1e-5

    left, right = tf_keras.Input((4,), name="zeta"), tf_keras.Input((6,), name="alpha")
    joined = tf_keras.layers.Concatenate()([left, right])
    model = tf_keras.Model([left, right], [tf_keras.layers.Dense(3)(joined), joined])
    report = export.to_tflite(model, tmp_path / "two.tflite")
    found = export.Interpreter(report.path).run(
        {"zeta": np.zeros((1, 4)), "alpha": np.ones((1, 6))}
    )
    np.testing.assert_array_equal(found["output_1"], [[0] * 4 + [1] * 6])


def test_models_pruned_by_tfmot_export_once_stripped(path):
    prune = tfmot.sparsity.keras.prune_low_magnitude
    schedule = tfmot.sparsity.keras.ConstantSparsity(0.5, 0)
    pruned = prune(convnet(), schedule)
    final = tfmot.sparsity.keras.strip_pruning(pruned)
    assert export.to_tflite(final, path).max_difference < 1e-4


def test_models_that_wear_wrappers_are_refused(path):
    class Worn(tf_keras.layers.Wrapper):
        is_pruning_wrapper = True

        def call(self, inputs):
            return self.layer(inputs)

    worn = Worn(tf_keras.layers.Dense(3), name="worn")
    model = tf_keras.Sequential([tf_keras.Input((3,)), worn])
    with pytest.raises(ValueError, match=r"strip_pruning.*\['worn'\]"):
        export.to_tflite(model, path)
    assert not path.exists()
