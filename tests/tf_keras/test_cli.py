"""The command `smart-tf` on files of tf_keras."""

import json

import numpy as np
import pytest
import tf_keras

import smart_tf
from smart_tf.cli import data, main
from tests.tf_keras import tiny


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny.sequential()
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.save("model.keras")
    model.save("model.h5")
    rng = np.random.default_rng(0)
    np.savez("data.npz", x=rng.normal(size=(80, 8)), y=rng.integers(0, 4, 80))
    return tmp_path


@pytest.mark.parametrize(
    "model, loss",
    [
        ("model.keras", ""),
        pytest.param("model.h5", "logits", marks=pytest.mark.slow),
    ],
)
def test_prune(folder, capsys, model, loss):
    line = f"prune {model} out.keras --data data.npz --sparsity 0.5 --structure 4x4"
    line += " --epochs 2 --quiet --json" + (f" --loss {loss}" if loss else "")
    assert main(line.split()) == 0
    result = json.loads(capsys.readouterr().out)
    final = tf_keras.models.load_model("out.keras")
    kernels = [layer.kernel.numpy() for layer in final.layers]
    zeros = sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels)
    assert 0.5 <= zeros < 0.55
    assert result["pruning"]["sparsity"] == pytest.approx(zeros)
    assert {"loss", "accuracy"} == set(result["before"]) == set(result["after"])
    assert final.loss is not None


@pytest.mark.parametrize(
    "loss, labels", [("bce", "binary"), ("logcosh", "numbers"), (["mse"], "numbers")]
)
def test_losses_are_known_by_all_of_their_names(loss, labels):
    assert data.Expected.of(tiny.sequential(), loss).labels == labels


def test_report_export_and_shrink(folder, capsys):
    model = tiny.sequential()
    kernel = model.get_layer("first").kernel
    kernel.assign(np.where(np.arange(32) < 8, 0.0, kernel))
    model.save("zeros.keras")
    assert main(["report", "zeros.keras", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(json.dumps(smart_tf.report(model).to_dict()))
    assert main(["export", "zeros.keras", "out.tflite", "--to", "tflite"]) == 0
    assert main(["shrink", "zeros.keras", "small.keras"]) == 0
    small = tf_keras.models.load_model("small.keras")
    assert small.get_layer("first").kernel.shape == (8, 24)


def test_a_model_that_is_being_pruned(folder, capsys):
    smart_tf.prune(tiny.sequential(), 0.5, "4x4").save("wrapped.keras")
    assert main(["report", "wrapped.keras", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["structure"] == "4x4"
