"""`inspect_file` on `.keras` files of tf_keras."""

import numpy as np
import pytest
import tf_keras as keras

import smart_tf


def inspect(model, path):
    model.save(path)
    return smart_tf.inspect_file(path).tensors


def test_the_state_of_metrics_is_not_counted(tmp_path):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(9)])
    model.compile("adam", "mse", metrics=[keras.metrics.AUC()])
    model.fit(np.zeros((1, 8)), np.zeros((1, 9)), verbose=0)
    tensors = inspect(model, tmp_path / "model.keras")
    assert sum(t.size for t in tensors) == model.count_params() == 81


def test_axes_of_cells_and_heads(tmp_path):
    tokens = keras.Input((6, 16))
    x = keras.layers.GRU(8, return_sequences=True)(tokens)
    lstm = keras.layers.LSTM(8, return_sequences=True)
    x = keras.layers.Bidirectional(lstm)(x)
    model = keras.Model(tokens, keras.layers.MultiHeadAttention(2, 4)(x, x))
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    tensors = inspect(model, tmp_path / "model.keras")
    biases = [t for t in tensors if t.shape in ((2, 24), (2, 4))]
    kernels = [t for t in tensors if t not in biases and len(t.shape) > 1]
    assert len(biases) == 4 and len(kernels) == 10
    assert all(t.patterns == () and t.sparse_bytes is None for t in biases)
    assert all("1x4" in t.patterns and t.sparse_bytes for t in kernels)


def test_a_model_with_pruning_wrappers_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
    pruned = smart_tf.prune(model, 0.5, "1x4")
    with pytest.raises(ValueError, match="`smart_tf.strip_pruning.model.`"):
        inspect(pruned, tmp_path / "model.keras")
    stripped = smart_tf.strip_pruning(pruned)
    assert inspect(stripped, tmp_path / "model.keras")[0].zeros == 32
