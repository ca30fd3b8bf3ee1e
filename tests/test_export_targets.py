"""ONNX, OpenVINO and SavedModel: read back by the toolchains that they are for."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from smart_tf import export
from tests.pruned_models import GOLDEN_PATTERNS, convnet, golden, images, two_by_two

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")

ROUTES = {
    "model.onnx": export.to_onnx,
    "model.xml": export.to_openvino,
    "model": export.to_saved_model,
}


def run_onnx(path, inputs):
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def run_openvino(path, inputs):
    # Otherwise a CPU that can computes in bfloat16.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    outputs = openvino.Core().compile_model(path, "CPU", exact)(inputs).to_dict()
    return {name: value for key, value in outputs.items() for name in key.names}


def run_saved_model(path, inputs):
    loaded = tf.saved_model.load(path)
    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    return loaded.signatures["serving_default"](**inputs)


RUN = {
    "model.onnx": run_onnx,
    "model.xml": run_openvino,
    "model": run_saved_model,
}


@pytest.fixture(params=ROUTES)
def name(request):
    return request.param


def test_the_file_computes_what_the_model_computes(tmp_path, name):
    model, x = convnet(), images(1)
    report = ROUTES[name](model, tmp_path / name)
    found = RUN[name](str(tmp_path / name), {"image": x})
    np.testing.assert_allclose(found["output_0"], model(x), atol=1e-5)
    assert report.max_difference < 1e-4
    assert report.pattern_kept
    zeros = {row.source: row.zero_fraction for row in report.tensors if row.source}
    assert zeros == {
        "net/first/kernel": 4 / 8,
        "net/depthwise/kernel": 4 / 8,
        "net/second/kernel": 4 / 16,
        "net/logits/kernel": 4 / 10,
    }


def test_grouped_convolutions_are_exported(tmp_path, name):
    """Keras 3 compiles them apart from the rest of the model."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6, 6, 8)), keras.layers.Conv2D(4, 3, groups=2)]
    )
    report = ROUTES[name](model, tmp_path / name)
    assert report.relative_difference < 1e-5
    assert not tf.config.functions_run_eagerly()


def test_inputs_and_outputs_keep_their_names_and_order(tmp_path, name):
    model = two_by_two()
    ROUTES[name](model, tmp_path / name, batch_size=3)
    rng = np.random.default_rng(0)
    x = {"zeta": rng.random((3, 4), "float32"), "alpha": rng.random((3, 6), "float32")}
    found = RUN[name](str(tmp_path / name), x)
    wanted = model([x["zeta"], x["alpha"]])
    np.testing.assert_allclose(found["output_0"], wanted[0], atol=1e-5)
    np.testing.assert_allclose(found["output_1"], wanted[1], atol=1e-5)


def test_open_batches_take_any_number_of_rows(tmp_path, name):
    model = convnet()
    ROUTES[name](model, tmp_path / name, representative_data=images(3), batch_size=None)
    for rows in (1, 5):
        found = RUN[name](str(tmp_path / name), {"image": images(rows)})
        np.testing.assert_allclose(found["output_0"], model(images(rows)), atol=1e-5)


def test_reports_name_the_patterns_of_each_kernel(tmp_path, name):
    report = ROUTES[name](golden(), tmp_path / name)
    rows = {row.source.split("/")[-2]: row for row in report.tensors if row.source}
    assert {k: set(row.patterns) for k, row in rows.items()} == GOLDEN_PATTERNS
    assert "2:4" in str(report)
    assert report.to_dict()["target"] == report.target


def test_bytes_are_those_of_all_the_files(tmp_path, name):
    report = ROUTES[name](convnet(), tmp_path / name)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert report.bytes == sum(file.stat().st_size for file in files)
    made = {"model.onnx": {"model.onnx"}, "model.xml": {"model.xml", "model.bin"}}
    assert {file.name for file in tmp_path.iterdir()} == made.get(name, {"model"})


def test_an_older_export_is_replaced_and_another_folder_is_not(tmp_path, name):
    first, second = convnet(), convnet()
    second.get_layer("logits").bias.assign(np.arange(10.0))
    ROUTES[name](first, tmp_path / name)
    ROUTES[name](second, tmp_path / name)
    found = RUN[name](str(tmp_path / name), {"image": images(1)})
    np.testing.assert_allclose(found["output_0"], second(images(1)), atol=1e-4)
    mine = tmp_path / "mine" / name
    (mine / "thesis").mkdir(parents=True)
    with pytest.raises(ValueError, match="`path` must be a file.*something else"):
        ROUTES[name](first, mine)
    assert [file.name for file in mine.iterdir()] == ["thesis"]


def test_a_file_is_not_replaced_by_a_folder_nor_the_other_way_round(tmp_path):
    (tmp_path / "file").write_text("my notes")
    export.to_saved_model(convnet(), tmp_path / "folder")
    for route, path in ((export.to_saved_model, "file"), (export.to_tflite, "folder")):
        with pytest.raises(ValueError, match="something else is there"):
            route(convnet(), tmp_path / path)
    assert (tmp_path / "file").read_text() == "my notes"
    assert (tmp_path / "folder" / "saved_model.pb").is_file()


def test_what_does_not_agree_is_not_left_behind(tmp_path, name, monkeypatch):
    model = convnet()
    kind = {"model.onnx": "ONNX", "model.xml": "OpenVINO", "model": "SavedModel"}[name]
    module = sys.modules[ROUTES[name].__module__]
    load = getattr(module, kind).load

    def shifted(self, path):
        run = load(self, path)
        return lambda batch: [np.asarray(output) + 1 for output in run(batch)]

    monkeypatch.setattr(getattr(module, kind), "load", shifted)
    with pytest.raises(export.ExportError, match="does not compute what the Keras"):
        ROUTES[name](model, tmp_path / name)
    monkeypatch.setattr(getattr(module, kind), "read_weights", lambda *_: [])
    monkeypatch.setattr(getattr(module, kind), "load", load)
    with pytest.raises(export.ExportError, match=r"does not hold the zeros.*net/first"):
        ROUTES[name](model, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    report = ROUTES[name](model, tmp_path / name, require_zeros=False)
    assert len(report.lost) == 4 and "LOST" in str(report)


class Worn(keras.layers.Layer):
    is_pruning_wrapper = True

    def call(self, inputs):
        return inputs


@pytest.mark.parametrize("folder", ["/proc", "no/such", "a_file"])
def test_unwritable_folders_are_refused_before_the_work(tmp_path, name, folder):
    (tmp_path / "a_file").write_text("here")
    with pytest.raises(ValueError, match="Argument `path` must be a file in a folder"):
        ROUTES[name](convnet(), tmp_path / folder / name)
    assert [file.name for file in tmp_path.iterdir()] == ["a_file"]


def test_wrapped_models_are_refused(tmp_path, name):
    worn = keras.Sequential([keras.Input((3,)), Worn(name="worn")])
    with pytest.raises(ValueError, match=r"smart_tf.strip_pruning.*\['worn'\]"):
        ROUTES[name](worn, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_unsupported_operations_raise_export_error(tmp_path):
    inputs = keras.Input((8,))
    outputs = keras.layers.Lambda(lambda x: tf.linalg.expm(x[:, :, None] * x[:, None]))
    model = keras.Model(inputs, outputs(inputs))
    with pytest.raises(export.ExportError, match="ONNX"):
        export.to_onnx(model, tmp_path / "model.onnx")
    with pytest.raises(export.ExportError, match="OpenVINO"):
        export.to_openvino(model, tmp_path / "model.xml")
    assert list(tmp_path.iterdir()) == []


def test_openvino_stores_float16_in_half_the_bytes(tmp_path):
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    export.to_openvino(model, tmp_path / "full.xml")
    report = export.to_openvino(model, tmp_path / "half.xml", "float16")
    full, half = ((tmp_path / f"{n}.bin").stat().st_size for n in ("full", "half"))
    assert full - half == pytest.approx(64 * 64 * 2, abs=200)
    assert report.quantize == "float16"
    with pytest.raises(ValueError, match="`quantize` must be None or 'float16'"):
        export.to_openvino(model, tmp_path / "int8.xml", "int8")
    with pytest.raises(ValueError, match=r"`path` must end in '.xml'"):
        export.to_openvino(model, tmp_path / "model.bin")


@pytest.mark.parametrize(
    ("module", "extra", "name"),
    [("tf2onnx", "onnx", "model.onnx"), ("openvino", "openvino", "model.xml")],
)
def test_missing_extras_are_named(tmp_path, monkeypatch, module, extra, name):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'smart-tf\[{extra}\]'"):
        ROUTES[name](convnet(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_benchmark_times_every_kind_of_file(tmp_path):
    model = convnet()
    paths = [tmp_path / "model.tflite", tmp_path / "model.onnx", tmp_path / "model.xml"]
    export.to_tflite(model, paths[0])
    export.to_onnx(model, paths[1])
    export.to_openvino(model, paths[2])
    report = export.benchmark(paths, rounds=2, round_seconds=0.001)
    assert [row.path for row in report.rows] == [str(path) for path in paths]
    assert all(row.median > 0 for row in report.rows)


def test_openvino_replaces_no_weights_of_another_model(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"precious")
    with pytest.raises(ValueError, match="move '.*model.bin' away"):
        export.to_openvino(convnet(), tmp_path / "model.xml")
    assert [file.name for file in tmp_path.iterdir()] == ["model.bin"]
    assert (tmp_path / "model.bin").read_bytes() == b"precious"


@pytest.mark.parametrize("data", [None, np.array([["a"], ["other"]], object)])
def test_saved_model_has_the_lookup_tables(tmp_path, data):
    lookup = keras.layers.StringLookup(vocabulary=["a", "b"])
    layers = [keras.layers.Embedding(3, 4), keras.layers.Flatten()]
    words = keras.Input((1,), dtype="string", name="words")
    model = keras.Model(words, keras.Sequential(layers)(lookup(words)))
    export.to_saved_model(model, tmp_path / "model", data)
    x = tf.constant([["b"], ["a"], ["other"]])
    found = run_saved_model(str(tmp_path / "model"), {"words": x})
    np.testing.assert_allclose(found["output_0"], model(x), atol=1e-6)


def test_openvino_is_timed_with_a_row_and_its_weights(tmp_path):
    fixed, open_batch = tmp_path / "fixed.xml", tmp_path / "open.xml"
    export.to_openvino(convnet(), fixed)
    export.to_openvino(convnet(), open_batch, batch_size=None)
    report = export.benchmark([fixed, open_batch], rounds=3, round_seconds=0.002)
    for row, path in zip(report.rows, (fixed, open_batch), strict=True):
        weights = path.with_suffix(".bin")
        assert row.bytes == path.stat().st_size + weights.stat().st_size
    run = export.openvino.prepare(open_batch)
    assert [tensor.shape[0] for tensor in run.__self__.input_tensors] == [1]


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int8", "float16", "float64"])
def test_onnx_is_timed_whatever_its_inputs(tmp_path, dtype):
    inputs = keras.Input((4,), dtype=dtype)
    outputs = keras.layers.Dense(2)(keras.ops.cast(inputs, "float32"))
    export.to_onnx(keras.Model(inputs, outputs), tmp_path / "model.onnx")
    report = export.benchmark(tmp_path / "model.onnx", rounds=2, round_seconds=0.001)
    assert report.rows[0].median > 0
