"""The command `smart-tf`: results, exit codes, and what it leaves on disk."""

import argparse
import configparser
import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import smart_tf
from smart_tf import export
from smart_tf.cli import commands, data, main, models, parser
from tests.pruned_models import convnet, images
from tests.references import compiled, mlp, output, zeros
from tests.references import data as classes

ROOT = pathlib.Path(__file__).parents[1]
X, Y = classes(96)
SPLITS = {"x_train": X[:64], "y_train": Y[:64], "x_test": X[64:], "y_test": Y[64:]}
FAST = ["--epochs", "2", "--batch-size", "16", "--quiet"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    path = tmp_path_factory.mktemp("files")
    compiled(mlp(), "adam", metrics=["accuracy"]).save(path / "model.keras")
    mlp().save(path / "plain.keras")
    convnet().save(path / "channels.keras")
    np.savez(path / "data.npz", **SPLITS)
    np.savez(path / "images.npz", x=images())
    return path


@pytest.fixture
def folder(files, tmp_path, monkeypatch):
    """The current folder, with models and data in it."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line, capsys):
    """The JSON that a command prints."""
    assert main([*shlex.split(line), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(line, capsys, code=2):
    """What a command says that fails, and leaves everything as it was."""
    before = contents()
    with pytest.raises(SystemExit) as raised:
        main(shlex.split(line))
    assert raised.value.code == code
    assert contents() == before
    printed = capsys.readouterr()
    assert not printed.out and "Traceback" not in printed.err
    last = printed.err.splitlines()[-1]
    assert re.match(r"smart-tf( \w+)?: error: ", last)
    return last


def contents():
    """Everything in the current folder, with what is hidden."""
    paths = pathlib.Path().rglob("*")
    return {str(path): path.is_file() and path.read_bytes() for path in paths}


def fit_forbidden(*args, **kwargs):
    raise AssertionError("nothing should be trained here")


def test_prune_writes_a_sparse_file_and_measures_it_on_held_out_data(folder, capsys):
    options = "--sparsity 0.5 --structure 4x4 --learning-rate 0.01"
    line = f"prune model.keras out.keras --data data.npz {options} {shlex.join(FAST)}"
    before = set(contents())
    result = run(line, capsys)
    assert set(contents()) - before == {"out.keras"}
    model = keras.models.load_model("out.keras")
    assert 0.5 <= zeros(model) < 0.5 + 16 / (2 * 256 + 64)
    assert result["pruning"]["sparsity"] == pytest.approx(zeros(model))
    assert result["pruning"]["phase"] == "frozen"
    for stage, path in (("before", "model.keras"), ("after", "out.keras")):
        guesses = output(keras.models.load_model(path, compile=False), X[64:])
        accuracy = np.mean(guesses.argmax(1) == Y[64:])
        assert result[stage]["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    after = model.evaluate(X[64:], Y[64:], verbose=0, return_dict=True)
    assert result["after"] == pytest.approx(after, abs=1e-5)  # compiled as before
    assert type(model.optimizer) is keras.optimizers.Adam


def test_prune_prints_tables_and_shows_progress_beside_them(folder, capsys):
    line = "prune plain.keras out.keras --data data.npz --structure 2:4 --loss logits"
    assert main([*shlex.split(line), *FAST[:-1]]) == 0
    printed = capsys.readouterr()
    assert "frozen, 2:4" in printed.out and "held-out data" in printed.out
    assert "Epoch 2/2" in printed.err and "Epoch" not in printed.out
    model = keras.models.load_model("out.keras")
    assert model.loss.get_config()["from_logits"]
    kernel = model.get_layer("second").kernel.numpy()
    assert (np.sum(kernel.reshape(4, 4, 16) != 0, axis=1) == 2).all()


@pytest.mark.slow
def test_the_same_seed_prunes_the_same_way(folder, capsys):
    line = "prune plain.keras {} --data data.npz --sparsity 0.5 --structure 4x4"
    line += f" --loss logits {shlex.join(FAST)} --held-out 0.25"
    np.savez("data.npz", x=X, y=Y)
    first = run(line.format("a.keras"), capsys)
    second = run(line.format("b.keras"), capsys)
    assert first["after"] == pytest.approx(second["after"], rel=1e-5)
    a, b = (keras.models.load_model(f"{k}.keras") for k in "ab")
    np.testing.assert_allclose(output(a, X), output(b, X), atol=1e-5)


@pytest.mark.parametrize(
    "options, structure",
    [
        ("", "16x8"),
        ("--target ethos-u85", "2:4"),
        ("--structure 8x4", "8x4"),
    ],
)
def test_a_target_brings_its_structure(folder, capsys, monkeypatch, options, structure):
    def prune(model, **settings):
        raise ValueError(f"structure={settings['structure']}")

    monkeypatch.setattr(smart_tf, "prune", prune)
    line = f"prune model.keras out.keras --data data.npz {options}"
    assert refused(line, capsys).endswith(f"structure={structure}")


def test_a_diverged_result_is_refused(folder, capsys):
    line = "prune model.keras out.keras --data data.npz --sparsity 0.5 --structure 4x4"
    line += f" --learning-rate 1e30 {shlex.join(FAST)}"
    assert "--learning-rate" in refused(line, capsys, code=1)


@pytest.mark.parametrize(
    "line, message",
    [
        ("plain.keras out.keras --data data.npz", "--loss"),
        ("model.keras data.npz --data data.npz", "must end in .keras"),
        ("model.keras plain.keras --data data.npz", "--force"),
        ("model.keras gone/out.keras --data data.npz", "a folder that exists"),
        ("model.keras model.keras/out.keras --data data.npz", "a folder that exists"),
        ("gone.keras out.keras --data data.npz", "is not there"),
        ("data.npz out.keras --data data.npz", "is another"),
        ("model.keras out.keras --data gone.npz", "an .npz file.*which is not there"),
        ("model.keras out.keras --data model.keras", "an .npz file.*which is another"),
        ("model.keras out.keras --data images.npz", "x_test, y_test, or x, y"),
        ("model.keras out.keras --data .", "does not take images"),
        ("model.keras out.keras --data data.npz --structure 3", "'OxIxHxW'"),
        ("model.keras out.keras --data data.npz --structure 2:4", "N:M|2:4"),
        ("model.keras out.keras --data data.npz --method none", "`method` must be"),
        ("model.keras out.keras --data data.npz --filters [", "unterminated"),
        ("model.keras out.keras --data data.npz --held-out 1", "between 0 and 1"),
        ("model.keras out.keras --data data.npz --rescale 1/0", "--rescale"),
        ("model.keras out.keras --data data.npz --rescale 0", "--rescale: .* than 0"),
        ("model.keras out.keras --data data.npz --rescale 1e400", "--rescale"),
        ("model.keras out.keras --data data.npz --epochs 0", "must be positive"),
        ("model.keras out.keras --data data.npz --sparsity 1.5", r"in \[0, 1\)"),
        ("model.keras out.keras --data data.npz --budget params", "`--budget` must be"),
        ("model.keras out.keras", "--data"),
        (
            "model.keras out.keras --data data.npz --structure channel --target "
            "ethos-u85",
            "--target: not allowed with argument --structure",
        ),
    ],
)
def test_prune_refuses_before_it_trains(folder, capsys, monkeypatch, line, message):
    monkeypatch.setattr(keras.Model, "fit", fit_forbidden)
    monkeypatch.setattr(keras.Model, "evaluate", fit_forbidden)
    line = f"prune --sparsity 0.9 {line}"
    assert re.search(message, refused(line, capsys))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x_train": X[:64, :15]}, r"`x_train` must have the shape \(None, 16\)"),
        ({"y_test": Y[:3]}, "equally long"),
        ({"y_train": Y[:64] + 1}, "integers from 0 to 3"),
        ({"y_train": np.array(["a", "b"])[Y[:64] % 2]}, r"integers from 0 .*: <U1 in"),
        ({"y_train": np.eye(4)[Y[:64]]}, r"in the shape \(None,\)"),
        ({"y_train": np.stack([Y[:64], Y[:64]], 1)}, r"shape \(None,\).*\(64, 2\)"),
        ({"x_test": np.where(X[64:] > 1, np.nan, X[64:])}, "`x_test` must be finite"),
        ({"x_train": np.where(X[:64] > 1, np.inf, X[:64])}, "`x_train` must be finite"),
    ],
)
def test_arrays_that_do_not_fit_the_model(folder, capsys, changes, message):
    np.savez("other.npz", **SPLITS | changes)
    line = "prune model.keras out.keras --data other.npz --sparsity 0.5"
    assert re.search(message, refused(line, capsys))


def expected(labels="integers", shape=(16,), units=4):
    return data.Expected(shape, "float32", labels, (units,))


def whole(dataset):
    """All inputs and labels of a data set, joined."""
    return [np.concatenate(parts) for parts in zip(*dataset, strict=True)]


def test_arrays_are_shuffled_split_and_scaled(folder):
    np.savez("all.npz", x=X, y=Y)
    settings = data.Settings(batch_size=10, held_out=0.25, scale=0.5)
    train, test = data.load("all.npz", expected(), settings)
    (x, y), (x_test, y_test) = whole(train), whole(test)
    assert len(x) == 72 and len(x_test) == 24
    rows = {tuple(row): label for row, label in zip(X * 0.5, Y, strict=True)}
    found = np.concatenate([x, x_test]), np.concatenate([y, y_test])
    assert {tuple(r): label for r, label in zip(*found, strict=True)} == rows
    first, second = (whole(data.load("all.npz", expected(), settings)[0])[0], x)
    assert not np.array_equal(x, whole(train)[0])  # another order in each epoch
    assert sorted(map(tuple, first)) == sorted(map(tuple, second))


def test_arrays_to_test_on_may_be_called_as_folders_may(folder):
    np.savez("val.npz", x_train=X[:64], y_train=Y[:64], x_val=X[64:], y_val=Y[64:])
    train, test = data.load("val.npz", expected(), data.Settings())
    assert len(whole(train)[0]) == 64
    np.testing.assert_array_equal(whole(test)[0], X[64:])


def test_labels_may_have_an_axis_of_their_own_and_those_of_the_outputs(folder):
    np.savez("column.npz", x=X, y=Y[:, None])
    assert len(data.load("column.npz", expected(), data.Settings())) == 2
    np.savez("tokens.npz", x=X, y=np.stack([Y, Y], 1))
    tokens = data.Expected((16,), "float32", "integers", (2, 4))
    assert len(data.load("tokens.npz", tokens, data.Settings())) == 2


def test_one_hot_labels_are_for_losses_that_want_them(folder):
    np.savez("one_hot.npz", x=X, y=np.eye(4)[Y])
    one_hot = data.Expected.of(mlp(), keras.losses.CategoricalCrossentropy())
    assert one_hot == expected("one-hot")
    _, test = data.load("one_hot.npz", one_hot, data.Settings())
    assert whole(test)[1].shape == (19, 4)
    with pytest.raises(ValueError, match=r"one-hot labels in the shape \(None, 4\)"):
        data.load("data.npz", one_hot, data.Settings())
    sparse = data.Expected.of(mlp(), "sparse_categorical_crossentropy")
    assert sparse == expected("integers")
    numbers = data.Expected.of(mlp(), keras.losses.MeanSquaredError())
    assert numbers == expected("numbers")


@pytest.mark.parametrize(
    "loss, labels",
    [
        ("bce", "binary"),
        ("mse", "numbers"),
        ("kld", "numbers"),
        (["sparse_categorical_crossentropy"], "integers"),
        ({"fourth": "categorical_crossentropy"}, "one-hot"),
        (keras.losses.CategoricalGeneralizedCrossEntropy(), "integers"),
        ("ctc", "any"),
    ],
)
def test_losses_are_known_by_all_of_their_names(loss, labels):
    assert data.Expected.of(mlp(), loss) == expected(labels)


@pytest.mark.parametrize(
    "found, outputs",
    [
        *[((), (1,)), ((1,), ()), ((5, 1), (5,)), ((5,), (5, 1)), ((5,), (None, 1))],
        *[((3,), (3,)), ((1,), (None,))],
    ],
)
def test_numbers_to_learn_have_the_shape_of_the_outputs(folder, found, outputs):
    np.savez("numbers.npz", x=X, y=np.zeros((len(X), *found)))
    wanted = data.Expected((16,), "float32", "numbers", outputs)
    assert len(data.load("numbers.npz", wanted, data.Settings())) == 2


@pytest.mark.parametrize("found, units", [((3,), 1), ((), 3), ((4,), 3), ((3, 3), 3)])
@pytest.mark.parametrize("labels", ["numbers", "binary"])
def test_labels_that_would_be_broadcast_are_refused(folder, labels, found, units):
    np.savez("numbers.npz", x=X, y=np.zeros((len(X), *found)))
    message = rf"`y` must hold numbers.* in the shape \(None, {units}\)"
    with pytest.raises(ValueError, match=message):
        data.load("numbers.npz", expected(labels, units=units), data.Settings())


@pytest.mark.parametrize("labels", ["one-hot", "binary", "numbers", "any"])
def test_labels_that_are_text_are_refused(folder, labels):
    np.savez("text.npz", x=X, y=np.array(["cat", "dog"])[Y % 2])
    with pytest.raises(ValueError, match=r"`y` must hold .*: <U3 in the shape \(96,\)"):
        data.load("text.npz", expected(labels), data.Settings())


def test_integers_are_not_rescaled(folder):
    np.savez("bytes.npz", x=np.arange(160, dtype="uint8").reshape(10, 16))
    wanted = data.Expected((16,), "uint8", None, (4,))
    with pytest.raises(ValueError, match="`--rescale` must be left out.*of uint8"):
        data.load("bytes.npz", wanted, data.Settings(scale=1 / 255))
    train, _ = data.load("bytes.npz", wanted, data.Settings(held_out=0))
    assert whole(train)[0].sum() == sum(range(160))


def test_labels_of_a_binary_loss_are_from_0_to_1(folder):
    wanted = data.Expected.of(mlp(), keras.losses.BinaryCrossentropy())
    assert wanted == data.Expected.of(mlp(), "binary_crossentropy")
    wanted = dataclasses.replace(wanted, outputs=(1,))
    with pytest.raises(ValueError, match="numbers from 0 to 1.* from 0 to 3"):
        data.load("data.npz", wanted, data.Settings())
    np.savez("binary.npz", x=X, y=Y > 1)
    train, _ = data.load("binary.npz", wanted, data.Settings())
    assert set(whole(train)[1]) == {False, True}
    np.savez("numbers.npz", x=X, y=np.where(Y > 1, np.nan, Y))
    with pytest.raises(ValueError, match="`y` must be finite"):
        data.load("numbers.npz", expected("any"), data.Settings())


def write_images(folder, count=5):
    for name, value in (("cats", 10), ("dogs", 200)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            image = np.full((9, 7, 3), value + index, "uint8")
            keras.utils.save_img(folder / name / f"{index}.png", image, scale=False)


def test_a_folder_of_images(tmp_path):
    write_images(tmp_path / "all")

    def load(labels="integers", units=2, **settings):
        wanted = expected(labels, (12, 12, 3), units)
        return data.load(str(tmp_path / "all"), wanted, data.Settings(**settings))

    train, test = load()
    (x, y), (x_test, _) = whole(train), whole(test)
    assert x.shape == (8, 12, 12, 3) and x_test.shape == (2, 12, 12, 3)
    assert ((x.mean(axis=(1, 2, 3)) > 100) == y).all()
    means = np.concatenate([x, x_test]).mean(axis=(1, 2, 3)).round()
    assert sorted(means) == [*range(10, 15), *range(200, 205)]
    with pytest.raises(ValueError, match="one for each output"):
        load(units=4)
    assert [len(whole(part)[0]) for part in load(held_out=0)] == [10, 10]
    shutil.copytree(tmp_path / "all" / "cats", tmp_path / "all" / "birds")
    with pytest.raises(ValueError, match="the same 2 classes"):
        load("binary", units=1)


def test_a_folder_that_says_what_to_test_on(tmp_path):
    write_images(tmp_path / "train", 4)
    write_images(tmp_path / "test", 1)
    wanted = expected("one-hot", shape=(12, 12, 1), units=2)
    settings = data.Settings(scale=1 / 255)
    train, test = data.load(str(tmp_path), wanted, settings)
    assert whole(train)[0].shape == (8, 12, 12, 1)
    x, y = whole(test)
    np.testing.assert_allclose(x.mean(axis=(1, 2, 3)), [10 / 255, 200 / 255], 1e-4)
    assert y.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("part", ["head", "tail"])
def test_a_picture_that_is_broken_is_named(folder, capsys, part):
    write_images(pathlib.Path("pictures"))
    broken = pathlib.Path("pictures/dogs/3.png")
    content = broken.read_bytes()
    broken.write_bytes(b"no picture" if part == "head" else content[:-30])
    pathlib.Path("pictures/dogs/notes.txt").write_text("is no picture either")
    keras.Sequential([keras.Input((9, 7, 3)), keras.layers.Flatten()]).save(
        "flat.keras"
    )
    line = "export flat.keras out.tflite --to tflite --quantize int8 --data pictures"
    assert str(broken) in refused(line, capsys)


def test_other_errors_of_tensorflow_are_left_as_they_are(tmp_path):
    write_images(tmp_path)
    for source in (str(tmp_path), "data.npz", "tfds:mnist"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="^something else$"):
            with data.broken_pictures_named(source):
                raise tf.errors.InvalidArgumentError(None, None, "something else")


def test_tfds_that_is_not_installed(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    line = "prune model.keras out.keras --data tfds:mnist --sparsity 0.5"
    assert "pip install 'smart-tf[tfds]'" in refused(line, capsys)


@pytest.mark.parametrize("splits", [["train", "test"], ["train"]])
def test_tfds_is_asked_for_its_splits(monkeypatch, splits):
    """Against a stand-in with the functions of TFDS that are used."""
    asked = []

    class Builder:
        info = types.SimpleNamespace(splits=splits)

        def download_and_prepare(self):
            asked.append("prepared")

        def as_dataset(self, split, as_supervised, shuffle_files):
            assert as_supervised and asked[0] == "prepared"
            asked.append(split)
            x = np.full((6, 5, 5, 1), 100, "uint8")
            return tf.data.Dataset.from_tensor_slices((x, np.arange(6) % 3))

    stand_in = types.SimpleNamespace(builder={"toy": Builder()}.get)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", stand_in)
    wanted = expected("one-hot", shape=(8, 8, 1), units=3)
    train, test = data.load("tfds:toy", wanted, data.Settings(batch_size=4))
    rest = ["train", "test"] if "test" in splits else ["train[:80%]", "train[80%:]"]
    assert asked == ["prepared", *rest]
    assert int(train.cardinality()) == 2
    x, y = whole(test)
    assert x.shape == (6, 8, 8, 1) and (x == 100).all()
    assert y.argmax(1).tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("name", models.LOSSES)
@pytest.mark.parametrize("units", [1, 3])
def test_losses_by_name(name, units):
    """On outputs that are right: a small loss, and all of them accurate."""
    model = keras.Sequential([keras.Input((units,)), keras.layers.Identity()])
    settings = models.Objective(None, name).settings(model)
    model.compile("sgd", **settings)
    y = np.array([0, 1, 0, 1])
    right = y[:, None] if units == 1 else np.eye(3)[y]
    outputs = {"logits": 20 * right - 10, "probabilities": right, "regression": right}
    labels = right if name == "regression" else y
    values = model.evaluate(outputs[name], labels, verbose=0, return_dict=True)
    assert values["loss"] < 1e-3
    assert values.get("accuracy", 1) == 1 and values.get("mae", 0) == 0


def test_report_is_the_library_s(folder, capsys):
    result = run("report channels.keras --plot bars.png", capsys)
    report = smart_tf.report(keras.models.load_model("channels.keras"))
    assert result == json.loads(json.dumps(report.to_dict()))
    assert pathlib.Path("bars.png").read_bytes().startswith(b"\x89PNG")
    assert "--force" in refused("report channels.keras --plot bars.png", capsys)
    run("report channels.keras --plot bars.png --force", capsys)
    message = refused("report channels.keras --plot bars", capsys)
    assert re.search(r"`OUT` must end in .*\.png.* Received: OUT='bars'", message)


def test_report_knows_models_that_are_being_pruned(folder, capsys):
    smart_tf.prune(mlp(), 0.5, "4x4").save("wrapped.keras")
    assert run("report wrapped.keras", capsys)["structure"] == "4x4"
    assert "'dense'" in refused("shrink wrapped.keras out.keras", capsys)
    assert "'dense'" in refused("export wrapped.keras o.tflite --to tflite", capsys)


def test_a_model_that_is_compiled_without_a_loss_needs_one(folder, capsys):
    model = mlp()
    model.compile(optimizer="adam")
    model.save("lossless.keras")
    line = "prune lossless.keras out.keras --data data.npz --structure 2:4"
    assert "`--loss` must be given" in refused(line, capsys)


def test_h5_files_are_models_too(folder, capsys):
    compiled(mlp()).save("model.h5")
    mlp().save_weights("only.weights.h5")
    assert run("report model.h5", capsys)["parameters"] == mlp().count_params()
    assert "not only weights" in refused("report only.weights.h5", capsys)
    line = "prune model.h5 out.keras --data data.npz --sparsity 0.5 --structure 4x4"
    assert "--loss" in refused(line, capsys)


def test_shrink_writes_the_narrow_model(folder, capsys):
    result = run("shrink channels.keras small.keras", capsys)
    small, model = (
        keras.models.load_model(f"{k}.keras") for k in ("small", "channels")
    )
    assert small.get_layer("second").kernel.shape[-1] == 12
    assert result["widths"]["second/kernel"] == [16, 12]
    np.testing.assert_allclose(
        output(small, images()), output(model, images()), atol=1e-5
    )


def test_shrink_warns_in_one_line(folder, capsys):
    assert main(["shrink", "model.keras", "same.keras"]) == 0
    printed = capsys.readouterr().err.splitlines()
    (line,) = [k for k in printed if "warning:" in k]
    assert line.startswith("smart-tf: warning: No channel")
    assert keras.models.load_model("same.keras").loss is not None


def test_export_writes_what_the_library_writes(folder, capsys):
    line = "export channels.keras int8.tflite --to tflite --quantize int8"
    result = run(f"{line} --data images.npz", capsys)
    assert result["quantize"] == "int8" and result["pattern_kept"]
    outputs = export.Interpreter("int8.tflite").run(images())
    want = output(keras.models.load_model("channels.keras"), images())
    assert np.abs(outputs - want).max() < 0.1 * np.abs(want).max()
    assert "--force" in refused(f"{line} --data images.npz", capsys)


def test_export_of_masks(folder, capsys):
    line = "export channels.keras masks.npz --to masks"
    assert "--structure" in refused(line, capsys)
    line = f"{line} --structure channel"
    pathlib.Path("masks.json").write_text("{}")
    for options in ("", "--force"):
        assert "masks.json" in refused(f"{line} {options}", capsys)
    pathlib.Path("masks.json").unlink()
    run(line, capsys)
    run(f"{line} --force", capsys)
    with np.load("masks.npz") as masks:
        (name,) = [name for name in masks if "second" in name]
        assert (masks[name].ravel() == [False] * 4 + [True] * 12).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ("--to onnx --quantize int8", "--quantize cannot be given with --to onnx"),
        ("--target ethos-u85 --sparse", "--sparse cannot be given with --target"),
        ("--to tflite --quantize int8", "`--data` must be given"),
        ("--to ethos-u", "`--data` must be given with --to ethos-u"),
        ("--target cpu-tflite", "`--data` must be given with --target cpu-tflite"),
        ("--to tflite --rescale 1/255", "`--rescale` must be given with `--data`"),
        (
            "--to ethos-u --quantize float16 --data images.npz",
            "`--quantize` must be one of int8 with --to ethos-u",
        ),
        (
            "--to openvino --quantize int8 --data images.npz",
            "`--quantize` must be one of float16 with --to openvino",
        ),
        ("--to tflite --data gone.npz", "which is not there"),
        ("--to openvino", "`OUT` must end in '.xml'. Received: OUT='out.tflite'"),
        ("--to tflite --target flash-size", "not allowed with"),
        ("", "--to --target"),
    ],
)
def test_export_refuses(folder, capsys, options, message):
    assert message in refused(f"export channels.keras out.tflite {options}", capsys)


@pytest.mark.parametrize("count", [1, 10])
def test_export_measures_ranges_on_all_of_the_data(folder, capsys, monkeypatch, count):
    def to_tflite(model, path, representative_data, **options):
        raise ValueError(str(len(whole(representative_data)[0])))

    route = dataclasses.replace(commands.ROUTES["tflite"], write=to_tflite)
    monkeypatch.setitem(commands.ROUTES, "tflite", route)
    np.savez("some.npz", x=images(count))
    line = "export channels.keras out.tflite --to tflite --quantize int8"
    assert refused(f"{line} --data some.npz", capsys).endswith(f"error: {count}")


@pytest.mark.parametrize("goal", ["--to ethos-u", "--target ethos-u55-128"])
def test_a_compiler_that_fails_leaves_nothing_behind(folder, capsys, monkeypatch, goal):
    def fail(*args, **kwargs):
        raise export.ExportError("Vela cannot\ncompile this")

    monkeypatch.setattr(smart_tf.targets, "compile_for_ethos_u", fail)
    line = f"export channels.keras out.tflite {goal} --data images.npz"
    assert refused(line, capsys, code=1).endswith("Vela cannot compile this")


@pytest.mark.parametrize(
    "goal", ["--to ethos-u --accelerator ethos-u65-512", "--target ethos-u65"]
)
def test_ethos_u_gets_both_files(folder, capsys, goal):
    pytest.importorskip("ethosu.vela")
    before = set(contents())
    result = run(f"export channels.keras out.tflite {goal} --data images.npz", capsys)
    assert result["path"] == "out_vela.tflite" and result["cycles"] > 0
    assert result["accelerator"] == "ethos-u65-512"
    assert set(contents()) - before == {"out.tflite", "out_vela.tflite"}


def test_messages_name_what_the_user_typed(folder, capsys):
    message = refused("export channels.keras gone/out.tflite --to tflite", capsys)
    assert "Argument `OUT` must" in message and "OUT='gone/out.tflite'" in message
    assert "Argument `path` must" in refused("inspect gone.tflite", capsys)


def test_classes_that_are_not_known(folder, capsys):
    class Own(keras.layers.Dense):
        pass

    keras.Sequential([keras.Input((4,)), Own(3)]).save("own.keras")
    assert "Own" in refused("report own.keras", capsys)


@pytest.mark.parametrize("part", ["config.json", "model.weights.h5", "metadata.json"])
def test_a_broken_file_is_named(folder, capsys, part):
    content = pathlib.Path("model.keras").read_bytes()
    place = content.index(part.encode()) + len(part) + 9
    broken = content[:place] + b"\xff" * 4 + content[place + 4 :]
    pathlib.Path("broken.keras").write_bytes(broken)
    assert "MODEL='broken.keras'" in refused("report broken.keras", capsys)


def test_an_interrupted_command_says_so(folder, capsys, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(smart_tf, "shrink", interrupt)
    before = contents()
    with pytest.raises(SystemExit) as raised:
        main(["shrink", "channels.keras", "out.keras"])
    assert raised.value.code == 130 and contents() == before
    assert capsys.readouterr().err.endswith("smart-tf: interrupted\n")


def test_a_terminated_command_leaves_nothing_behind(folder, monkeypatch):
    before, inside = contents(), []

    def killed(*args):
        inside.extend(set(contents()) - set(before))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(smart_tf, "shrink", killed)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as raised:
        main(["shrink", "channels.keras", "out.keras"])
    assert raised.value.code == 143 and contents() == before
    assert len(inside) == 1  # The test looks where unfinished files are.
    assert signal.getsignal(signal.SIGTERM) is handler


def test_arrays_that_nobody_reads_are_named(folder, capsys):
    extra = {"x_val": X[:8], "y_val": Y[:8], "weights": np.ones(64)}
    np.savez("more.npz", **SPLITS, **extra)
    expected = data.Expected((16,), "float32", "integers", (4,))
    with pytest.warns(UserWarning, match="more.npz.*weights, x_val, y_val") as caught:
        data.load("more.npz", expected, data.Settings())
    assert len(caught) == 1
    unlabelled = data.Expected((16,), "float32", None, (4,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.load("data.npz", expected, data.Settings())
        data.load("data.npz", unlabelled, data.Settings())


def test_debug_shows_where_an_error_arose(folder):
    with pytest.raises(ValueError, match="is not there"):
        main(["report", "gone.keras", "--debug"])


def lines(text):
    """The commands in a text, as lists of arguments."""
    text = text.replace("\\\n", " ")
    return [
        shlex.split(line)[1:] for line in re.findall(r"^ *(smart-tf .*)", text, re.M)
    ]


@pytest.mark.parametrize("command", parser._EXAMPLES)
def test_help_has_examples_that_parse(capsys, command):
    with pytest.raises(SystemExit) as raised:
        main([command, "--help"] if command else ["--help"])
    text = capsys.readouterr().out
    examples = lines(text.partition("examples:")[2])
    assert raised.value.code == 0 and len(examples) >= 2
    for arguments in (a for a in examples if "--help" not in a):
        options = parser._parser().parse_args(arguments)
        assert isinstance(options, argparse.Namespace) and callable(options.run)


def test_the_readme_s_commands_parse():
    examples = lines((ROOT / "README.md").read_text())
    assert {arguments[0] for arguments in examples} >= {"prune", "export"}
    for arguments in examples:
        parser._parser().parse_args(arguments)


def test_every_target_and_route_is_offered():
    assert {"tflite", "onnx", "openvino", "saved_model", "masks", "ethos-u"} <= set(
        commands.ROUTES
    )


def test_the_console_script_is_this_main():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    scripts = config["options.entry_points"]["console_scripts"]
    assert scripts.split() == ["smart-tf", "=", "smart_tf.cli:main"]


@pytest.mark.slow
def test_the_module_runs_in_a_process_of_its_own(folder):
    done = subprocess.run(
        [sys.executable, "-m", "smart_tf", "report", "channels.keras", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["phase"] == "plain"
    gone = [sys.executable, "-m", "smart_tf", "report", "gone.keras"]
    done = subprocess.run(gone, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and not done.stdout
    assert "Traceback" not in done.stderr
