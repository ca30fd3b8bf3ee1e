"""Exporting Keras 3 models to `.tflite`."""

import gzip

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter as LiteRT

from smart_tf import export
from smart_tf.export import conversion, staging, tflite
from smart_tf.export.matching import match_weight
from smart_tf.export.signature import get_signature
from smart_tf.export.tensors import read_weights
from tests.pruned_models import convnet, images, two_by_two, zeroed


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tflite"


def test_float_file_computes_what_the_model_computes(path):
    model = convnet()
    report = export.to_tflite(model, path)
    litert = LiteRT(model_path=str(path))
    litert.allocate_tensors()
    x = images(1)
    litert.set_tensor(litert.get_input_details()[0]["index"], x)
    litert.invoke()
    found = litert.get_tensor(litert.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, model(x), atol=1e-5)
    assert 0 <= report.max_difference < 1e-4


def test_report_counts_bytes_and_zeros(path):
    report = export.to_tflite(convnet(), path)
    content = path.read_bytes()
    assert report.bytes == len(content)
    assert report.gzip_bytes == pytest.approx(len(gzip.compress(content)), rel=0.05)
    zeros = {row.source: row.zero_fraction for row in report.tensors if row.source}
    assert zeros == {
        "net/first/kernel": 4 / 8,
        "net/depthwise/kernel": 4 / 8,
        "net/second/kernel": 4 / 16,
        "net/logits/kernel": 4 / 10,
    }
    assert report.pattern_kept and report.lost == ()


@pytest.mark.parametrize("quantize", ["float16", "dynamic", "int8"])
def test_zeros_survive_quantization(path, quantize):
    report = export.to_tflite(convnet(), path, quantize, images())
    by_shape = {row.shape: row.zero_fraction for row in report.tensors}
    assert by_shape[8, 3, 3, 3] >= 4 / 8
    assert by_shape[16, 3, 3, 8] >= 4 / 16
    assert by_shape[10, 16] >= 4 / 10
    assert report.pattern_kept
    assert 0 < report.relative_difference < 0.1


def test_int8_file_is_int8_through_and_through(path):
    model = convnet()
    report = export.to_tflite(model, path, "int8", images())
    litert = LiteRT(model_path=str(path))
    assert litert.get_input_details()[0]["dtype"] == np.int8
    assert litert.get_output_details()[0]["dtype"] == np.int8
    assert {row.dtype for row in report.tensors} == {"int8", "int32"}
    found = export.Interpreter(path).run(images())
    np.testing.assert_allclose(found, model(images()), atol=0.1)


def test_float16_stores_half_the_bytes(tmp_path):
    dense = zeroed(keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)]))
    full = export.to_tflite(dense, tmp_path / "a.tflite")
    half = export.to_tflite(dense, tmp_path / "b.tflite", "float16")
    assert full.bytes - half.bytes == pytest.approx(64 * 64 * 2, abs=600)


def test_inputs_and_outputs_keep_their_names_and_order(path):
    model = two_by_two()
    export.to_tflite(model, path)
    interpreter = export.Interpreter(path)
    assert set(interpreter.input_names) == {"zeta", "alpha"}
    assert interpreter.output_names == ["output_0", "output_1"]
    rng = np.random.default_rng(0)
    x = {"zeta": rng.random((7, 4)), "alpha": rng.random((7, 6))}
    found = interpreter.run(x)
    wanted = model([x["zeta"], x["alpha"]])
    np.testing.assert_allclose(found["output_0"], wanted[0], atol=1e-5)
    np.testing.assert_allclose(found["output_1"], wanted[1], atol=1e-5)


def test_dict_models_and_subclassed_models_export(tmp_path):
    inputs = {"b": keras.Input((3,), name="b"), "a": keras.Input((2,), name="a")}
    joined = keras.layers.Concatenate()([inputs["b"], inputs["a"]])
    model = zeroed(keras.Model(inputs, {"out": keras.layers.Dense(4)(joined)}), 1)
    report = export.to_tflite(model, tmp_path / "dict.tflite")
    assert report.max_difference < 1e-5
    assert set(export.Interpreter(report.path).input_names) == {"a", "b"}

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def call(self, inputs):
            return self.dense(inputs)

    model = Subclassed()
    with pytest.raises(ValueError, match="call it once on data"):
        export.to_tflite(model, tmp_path / "sub.tflite")
    model(np.zeros((2, 5), "float32"))
    assert export.to_tflite(model, tmp_path / "sub.tflite").max_difference < 1e-5


class Bag(keras.Model):
    """Of ids, which Keras 3 does not remember to be integers."""

    def __init__(self):
        super().__init__()
        self.embedding = keras.layers.Embedding(1000, 8)
        self.dense = keras.layers.Dense(4)

    def call(self, inputs):
        return self.dense(keras.ops.mean(self.embedding(inputs), axis=1))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: [x],
        lambda x: tf.data.Dataset.from_tensor_slices((x, np.zeros(len(x)))).batch(5),
        lambda x: lambda: (row[None] for row in x),
    ],
    ids=["array", "list", "dataset", "callable"],
)
def test_ids_of_a_subclassed_model_stay_integers(path, wrap):
    ids = np.random.default_rng(0).integers(0, 1000, (16, 6), "int32")
    model = Bag()
    wanted = model(ids).numpy()
    report = export.to_tflite(model, path, "int8", wrap(ids))
    assert LiteRT(str(path)).get_input_details()[0]["dtype"] == np.int32
    assert report.samples == 8
    found = export.Interpreter(path).run(ids)
    np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())


def test_a_subclassed_model_s_input_is_float_unless_data_says_otherwise(path):
    model = Bag()
    model(np.zeros((1, 6), "int32"))
    for data in (None, np.zeros((2, 6))):
        export.to_tflite(model, path, representative_data=data)
        assert LiteRT(str(path)).get_input_details()[0]["dtype"] == np.float32


def test_attention_and_recurrent_models_keep_their_zeros(tmp_path):
    tokens = keras.Input((6, 16))
    x = keras.layers.MultiHeadAttention(2, 8)(tokens, tokens)
    x = keras.layers.GRU(8)(x)
    model = zeroed(keras.Model(tokens, keras.layers.Dense(8)(x)))
    report = export.to_tflite(model, tmp_path / "m.tflite")
    assert report.max_difference < 1e-5
    assert report.pattern_kept
    with pytest.raises(ValueError, match="unroll=True"):
        data = np.zeros((4, 6, 16))
        export.to_tflite(model, tmp_path / "n.tflite", "int8", data)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: [x],
        lambda x: {"image": x},
        lambda x: tf.data.Dataset.from_tensor_slices((x, np.zeros(len(x)))).batch(5),
        lambda x: tf.data.Dataset.from_tensor_slices(x).batch(4).repeat(),
        lambda x: lambda: ([row[None]] for row in x),
    ],
    ids=["array", "list", "dict", "dataset", "endless", "callable"],
)
def test_representative_data_comes_in_many_shapes(path, wrap):
    x = images(10)
    report = export.to_tflite(convnet(), path, "int8", wrap(x))
    scale, zero_point = LiteRT(str(path)).get_input_details()[0]["quantization"]
    assert scale == pytest.approx((x.max() - 0) / 255, rel=0.01)
    assert zero_point == -128
    assert report.samples == 8


@pytest.mark.parametrize("row", [0, 40])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("quantize", ["int8", None])
def test_representative_data_must_be_finite(path, monkeypatch, quantize, value, row):
    def convert(*args):
        raise AssertionError("infinity kills the process there")

    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_concrete_functions", convert)
    x = images(48)
    x[row, 0, 0, 0] = value
    with pytest.raises(ValueError, match="`representative_data` must be finite"):
        export.to_tflite(convnet(), path, quantize, x)


@pytest.mark.parametrize("rows", [(6, 4), (6, 0), (0, 6)])
def test_representative_data_has_as_many_rows_for_each_input(path, rows):
    data = [np.zeros((n, width)) for n, width in zip(rows, (4, 6), strict=True)]
    message = rf"as many rows for each input.*Received: \[{rows[0]}, {rows[1]}\] rows"
    with pytest.raises(ValueError, match=message):
        export.to_tflite(two_by_two(), path, "int8", data)


def test_fixed_batches_loop_and_open_batches_grow(tmp_path):
    model, x = convnet(), images(7)
    for batch_size in (1, 4, None):
        file = tmp_path / f"{batch_size}.tflite"
        export.to_tflite(model, file, batch_size=batch_size)
        np.testing.assert_allclose(export.Interpreter(file).run(x), model(x), atol=1e-5)


class FakeWrapper(keras.layers.Layer):
    is_pruning_wrapper = True

    def call(self, inputs):
        return inputs


def wrapped():
    return keras.Sequential([keras.Input((3,)), FakeWrapper(name="worn")])


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "`model` must be a Keras model", {"model": "resnet"}),
        (TypeError, "`model`", {"model": keras.layers.Dense(3)}),
        (ValueError, "smart_tf.strip_pruning", {"model": wrapped()}),
        (ValueError, "`quantize` must be one of", {"quantize": "int4"}),
        (ValueError, "`representative_data` must be given", {"quantize": "int8"}),
        (TypeError, "`representative_data`", {"representative_data": 3}),
        (
            ValueError,
            r"\(None, 12, 12, 3\) for input 'image'. Received: shape \(12, 12, 3\)",
            {"representative_data": np.zeros((12, 12, 3))},
        ),
        (ValueError, "one array per input", {"representative_data": [1, 2]}),
        (ValueError, "keys", {"representative_data": {"picture": [1]}}),
        (ValueError, "empty", {"representative_data": lambda: iter(())}),
        (ValueError, "`batch_size`", {"batch_size": 0}),
        (ValueError, "`path` must be a file", {"path": "no/such/folder/m.tflite"}),
    ],
)
def test_wrong_arguments_are_named(tmp_path, error, message, arguments):
    arguments = {"model": convnet(), "path": tmp_path / "m.tflite", **arguments}
    with pytest.raises(error, match=message):
        export.to_tflite(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_open_image_sizes_and_half_precision_are_refused(path):
    open_size = keras.Sequential([keras.Input((None, 8, 3)), keras.layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match="fixed shape"):
        export.to_tflite(open_size, path)
    dense = keras.layers.Dense(2, dtype="mixed_float16", name="half")
    with pytest.raises(ValueError, match=r"float32.*\['half'\]"):
        export.to_tflite(keras.Sequential([keras.Input((3,)), dense]), path)


def test_a_file_that_does_not_load_or_agree_is_not_left_behind(path, monkeypatch):
    model, other = convnet(), zeroed(convnet(), seed=5)
    path.write_bytes(b"the previous export")
    monkeypatch.setattr(
        tflite.TFLite, "write", lambda self, _, file: file.write_bytes(b"TFL3?")
    )
    with pytest.raises(export.ExportError, match="does not load"):
        export.to_tflite(model, path)
    monkeypatch.undo()

    write = tflite.TFLite.write
    wrong = get_signature(other, 1)
    monkeypatch.setattr(
        tflite.TFLite, "write", lambda self, _, file: write(self, wrong, file)
    )
    with pytest.raises(export.ExportError, match="does not compute what the Keras"):
        export.to_tflite(model, path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == b"the previous export"


def test_models_that_give_nan_are_refused(path):
    model = convnet()
    model.get_layer("logits").bias.assign(np.full(10, np.nan))
    with pytest.raises(export.ExportError, match="infinity from the Keras model"):
        export.to_tflite(model, path)


def test_operations_that_do_not_convert_raise_export_error(path):
    inputs = keras.Input((8,))
    outputs = keras.layers.Lambda(lambda x: tf.linalg.expm(x[:, :, None] * x[:, None]))
    with pytest.raises(export.ExportError, match="cannot convert"):
        export.to_tflite(keras.Model(inputs, outputs(inputs)), path)


def test_report_prints_and_turns_into_a_dict(path):
    report = export.to_tflite(convnet(), path)
    text = str(report)
    assert "first/kernel" in text and "50.0%" in text and "all kept" in text
    assert max(map(len, text.splitlines())) <= 100
    data = report.to_dict()
    assert data["bytes"] == path.stat().st_size
    assert data["tensors"][0].keys() >= {"name", "shape", "dtype", "zero_fraction"}


def test_lost_zeros_are_reported():
    kernel = np.ones((4, 6))
    kernel[1, 2] = 0
    held = np.ones((6, 4), bool)
    weight = export.WeightTensor("w", (6, 4), "float32", ~held)
    assert match_weight([weight], kernel == 0).tensors == ()
    held[2, 1] = False
    weight = export.WeightTensor("w", (6, 4), "float32", ~held)
    match = match_weight([weight], kernel == 0)
    assert match.tensors == (0,)
    np.testing.assert_array_equal(match.zeros, kernel == 0)


def test_interpreter_names_wrong_inputs(path):
    export.to_tflite(convnet(), path)
    interpreter = export.Interpreter(path)
    with pytest.raises(ValueError, match="one array per input"):
        interpreter.run([images(), images()])
    with pytest.raises(ValueError, match="keys"):
        interpreter.run({"picture": images()})
    with pytest.raises(ValueError, match="rows"):
        interpreter.run(images()[:0])
    with pytest.raises(ValueError, match="`path` must be a file"):
        export.Interpreter(path.parent / "missing.tflite")


def test_benchmark_finds_the_slower_file(tmp_path):
    paths = []
    for width in (8, 512):
        layers = [keras.Input((width,)), keras.layers.Dense(width)]
        layers += [keras.layers.Dense(width) for _ in range(3)]
        paths.append(tmp_path / f"{width}.tflite")
        export.to_tflite(keras.Sequential(layers), paths[-1])
    report = export.benchmark(paths, rounds=5, round_seconds=0.002)
    small, large = report.rows
    assert small.ratio == 1
    assert large.ratio > 3
    assert large.median > small.median > 0
    assert large.median_ms == pytest.approx(1000 * large.median)
    assert "512.tflite" in str(report).replace("\n", "")
    assert report.to_dict()["rows"][1]["ratio"] == large.ratio
    assert export.benchmark(paths[0], rounds=2, round_seconds=0.001).rows[0].ratio == 1
    with pytest.raises(ValueError, match="`rounds`"):
        export.benchmark(paths, rounds=0)


def test_interpreter_quantizes_what_is_not_of_the_files_type(path):
    inputs = keras.Input((12, 12, 3))
    model = keras.Model(inputs, convnet()(keras.layers.Rescaling(1 / 255)(inputs)))
    pictures = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), "uint8")
    export.to_tflite(model, path, "int8", pictures)
    interpreter = export.Interpreter(path)
    wanted = interpreter.run(pictures.astype("float32"))
    np.testing.assert_array_equal(interpreter.run(pictures), wanted)
    stored = (pictures.astype(int) - 128).astype("int8")  # The file's own integers.
    np.testing.assert_array_equal(interpreter.run(stored), wanted)


def test_operators_that_stay_in_floats_are_named(path):
    model = keras.Sequential([keras.Input((4, 4, 4, 8)), keras.layers.Conv3D(6, 3)])
    x = np.random.default_rng(0).random((4, 4, 4, 4, 8), "float32")
    report = export.to_tflite(model, path, "int8", x)
    assert report.float_operators == ("CONV_3D",)
    assert "NOT int8: CONV_3D" in str(report)
    assert export.to_tflite(model, path).float_operators == ()
    assert export.to_tflite(convnet(), path, "int8", images()).float_operators == ()


def same_names():
    """Two models with a layer of the same name, in a third one."""

    def part(name):
        inputs = keras.Input((8,))
        outputs = keras.layers.Dense(8, activation="relu", name="fc")(inputs)
        return keras.Model(inputs, outputs, name=name)

    inputs = keras.Input((8,))
    model = keras.Model(inputs, part("second")(part("first")(inputs)))
    first, second = (layer.get_layer("fc").kernel for layer in model.layers[1:])
    first.assign(first.numpy() * (np.arange(8) >= 4)[:, None])
    second.assign(second.numpy() * (np.arange(8) >= 2)[:, None])
    return model


def test_kernels_of_equal_names_are_told_apart(path):
    report = export.to_tflite(same_names(), path)
    zeros = {row.source: row.zero_fraction for row in report.tensors if row.source}
    assert zeros == {"fc/kernel": 0.5, "fc/kernel_1": 0.25}


def test_zeros_that_are_lost_are_missed_whatever_the_names(path):
    class Filled(tflite.TFLite):
        """Loses the zeros of the first kernel."""

        def read_weights(self, path):
            weights = super().read_weights(path)
            return [w for w in weights if w.zero_fraction != 0.5]

    with pytest.raises(export.ExportError, match="zeros of fc/kernel\\."):
        conversion.export(Filled(), same_names(), path)
    layers = [keras.Input((8,)), keras.layers.Dense(6, name="unbiased")]
    model = zeroed(keras.Sequential(layers), blocks=3)
    with pytest.raises(export.ExportError, match="unbiased/kernel"):
        conversion.export(Filled(), model, path)
    assert not path.exists()


def test_kernels_with_equal_zeros_have_a_tensor_each(path):
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(8, name="a"), keras.layers.Dense(8)]
    )
    report = export.to_tflite(zeroed(model), path)
    sources = [row.source for row in report.tensors if len(row.shape) == 2]
    assert len(set(sources)) == 2 and "" not in sources


def test_state_that_is_no_kernel_need_not_be_in_the_file(path):
    class Counting(keras.layers.Layer):
        def build(self, shape):
            self.seen = self.add_weight(shape=(4, 8), trainable=False, name="seen")

        def call(self, inputs):
            return inputs

    model = keras.Sequential([keras.Input((8,)), Counting(), keras.layers.Dense(6)])
    model.layers[0].seen.assign(np.eye(4, 8))
    assert export.to_tflite(model, path).lost == ()


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_one_output_of_several_that_is_wrong_is_found(path, quantize):
    class Broken(tflite.TFLite):
        """The smaller output is 0."""

        def load(self, path):
            run = super().load(path)
            return lambda batch: [y * (np.abs(y).max() > 1e3) for y in run(batch)]

    inputs = keras.Input((4,))
    large = keras.layers.Rescaling(1e6)(keras.layers.Dense(2)(inputs))
    shares = keras.layers.Dense(3, activation="softmax")(inputs)
    model = keras.Model(inputs, [large, shares])
    x = np.random.default_rng(0).random((16, 4), "float32")
    assert export.to_tflite(model, path, quantize, x).relative_difference < 0.1
    with pytest.raises(export.ExportError, match="output 1 differs"):
        conversion.export(Broken(quantize, x), model, path.with_name("b.tflite"), x)
    assert not path.with_name("b.tflite").exists()


def test_what_the_runtime_refuses_is_an_error_of_the_export(path):
    model = keras.Sequential([keras.Input((2,), dtype="int32")])
    model.add(keras.layers.Embedding(4, 3))
    with pytest.raises(export.ExportError, match="does not run in the LiteRT"):
        export.to_tflite(model, path, representative_data=np.full((1, 2), 9))


def test_files_that_are_cut_off_are_named(tmp_path, path):
    export.to_tflite(convnet(), path)
    half = tmp_path / "half.tflite"
    half.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="`path` must be a whole .tflite file"):
        export.Interpreter(half)
    with pytest.raises(ValueError, match="`path` must be a whole .tflite file"):
        read_weights(half)
    with pytest.raises(ValueError, match=r"files in \.tflite, \.onnx, \.xml"):
        export.benchmark(tmp_path / "model.keras")


def test_interpreter_names_wrong_shapes(path):
    export.to_tflite(convnet(), path)
    for wrong in (images()[..., :1], images()[0], np.float32(1)):
        with pytest.raises(ValueError, match="shape .None, 12, 12, 3. for input"):
            export.Interpreter(path).run(wrong)


def test_a_batch_size_is_a_whole_number(path):
    with pytest.raises(ValueError, match="batch_size=True"):
        export.to_tflite(convnet(), path, batch_size=True)
    export.to_tflite(convnet(), path, batch_size=np.int64(2))
    assert export.Interpreter(path).input_details["image"]["shape"][0] == 2


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    folder = tmp_path / "saved"
    export.to_saved_model(convnet(), folder)
    before = (folder / "saved_model.pb").read_bytes()

    def refuse(source, target):
        raise PermissionError("no")

    monkeypatch.setattr(staging.os, "replace", refuse)
    with pytest.raises(PermissionError):
        export.to_saved_model(convnet(), folder)
    assert (folder / "saved_model.pb").read_bytes() == before
    assert list(tmp_path.iterdir()) == [folder]
