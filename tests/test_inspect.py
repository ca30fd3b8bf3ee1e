"""`inspect_file`, and the command in front of it."""

import gzip
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import smart_tf
from smart_tf import __main__ as command
from smart_tf import export
from smart_tf.export.sparse_format import encoded_bytes
from tests.pruned_models import GOLDEN_PATTERNS, GOLDEN_ZEROS, convnet, golden, images

SHAPES = {
    "blocks": (32, 3, 3, 16),
    "two_of_four": (16, 1, 1, 32),
    "quads": (32, 16),
    "channels": (8, 32),
}


@pytest.mark.parametrize("quantize", [None, "float16", "dynamic"])
def test_patterns_of_a_file_that_another_tool_made(tmp_path, quantize):
    converter = tf.lite.TFLiteConverter.from_keras_model(golden())
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    path = tmp_path / "model.tflite"
    path.write_bytes(converter.convert())
    report = smart_tf.inspect_file(path)
    found = {tensor.shape: tensor for tensor in report.tensors}
    for name, shape in SHAPES.items():
        assert found[shape].zeros == GOLDEN_ZEROS[name]
        assert set(found[shape].patterns) == GOLDEN_PATTERNS[name]
    assert report.bytes == path.stat().st_size
    content = path.read_bytes()
    assert report.gzip_bytes == pytest.approx(len(gzip.compress(content)), rel=0.01)


def test_patterns_of_an_int8_file_hold_in_spite_of_rounding(tmp_path):
    model = golden()
    kernel = model.get_layer("blocks").kernel
    values = kernel.numpy()
    values[1, 1, :, 20] = 1e-4  # Rounds to zero: the largest of the channel is about 1.
    kernel.assign(values)
    x = np.random.default_rng(0).random((4, 8, 8, 16), "float32")
    export.to_tflite(model, tmp_path / "model.tflite", "int8", x)
    report = smart_tf.inspect_file(tmp_path / "model.tflite")
    found = {tensor.shape: tensor for tensor in report.tensors}[SHAPES["blocks"]]
    assert found.dtype == "int8"
    assert found.zeros == GOLDEN_ZEROS["blocks"] + 16
    assert set(found.patterns) == {"16x8", "1x4"}


def test_patterns_of_a_keras_file_without_its_classes(tmp_path):
    @keras.saving.register_keras_serializable(package="gone")
    class Gone(keras.layers.Dense):
        pass

    model = golden()
    model.add(Gone(4, name="last"))
    model.get_layer("last").kernel.assign(np.tile([0.0, 1, 0, 1], (8, 1)))
    model.compile("adam", "mse")
    model.fit(np.zeros((1, 8, 8, 16)), np.zeros((1, 4)), verbose=0)  # Moments to skip.
    for name in SHAPES:
        model.get_layer(name).set_weights(golden().get_layer(name).get_weights())
    model.get_layer("last").kernel.assign(np.tile([0.0, 1, 0, 1], (8, 1)))
    model.save(tmp_path / "model.keras")
    del keras.saving.get_custom_objects()["gone>Gone"]
    report = smart_tf.inspect_file(tmp_path / "model.keras")
    found = {tensor.name: tensor for tensor in report.tensors}
    assert len(found) == 10  # Five kernels, five biases.
    for name in SHAPES:
        assert found[f"{name}/0"].zeros == GOLDEN_ZEROS[name]
        assert set(found[f"{name}/0"].patterns) == GOLDEN_PATTERNS[name]
    assert found["last/0"].zeros == 16
    assert found["last/0"].patterns == ()  # Its axes may mean anything.


def test_a_pattern_that_asks_nothing_of_a_kernel_is_not_named(tmp_path):
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, use_bias=False)]
    )
    kernel = np.ones((3, 3, 1, 4))
    kernel[0, 0, 0, 0] = 0  # one input channel: no groups of 4 along it
    model.set_weights([kernel])
    model.save(tmp_path / "model.keras")
    (tensor,) = smart_tf.inspect_file(tmp_path / "model.keras").tensors
    assert tensor.zeros == 1
    assert tensor.patterns == ()


def test_axes_of_special_keras_kernels(tmp_path):
    tokens = keras.Input((6, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="heads")(tokens, tokens)
    x = keras.layers.Reshape((6, 8, 1))(x)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=4, name="depth")(x)
    x = keras.layers.Conv2DTranspose(6, 2, name="up", dtype="bfloat16")(x)
    model = keras.Model(tokens, x)
    heads = model.get_layer("heads")
    for variable in model.weights:
        variable.assign(np.ones(variable.shape))
    heads._query_dense.kernel[:, 1, 2].assign(np.zeros(8))  # One of 2 x 4 outputs.
    depth = model.get_layer("depth").kernel
    depth.assign(depth * np.reshape([1.0, 0, 1, 1], (1, 1, 1, 4)))
    up = model.get_layer("up").kernel  # (height, width, out, in)
    up.assign(up * np.reshape([1.0, 1, 0, 1, 1, 1], (1, 1, 6, 1)))
    model.save(tmp_path / "model.keras")
    report = smart_tf.inspect_file(tmp_path / "model.keras")
    pruned = {t.name: t for t in report.tensors if t.zeros and t.name.endswith("/0")}
    patterns = {tuple(t.shape): set(t.patterns) for t in pruned.values()}
    assert patterns[8, 2, 4] == {"1x4", "channel"}
    assert "channel" in patterns[3, 3, 1, 4]
    assert patterns[2, 2, 6, 4] == {"1x4", "channel"}
    dtypes = {t.shape: t.dtype for t in report.tensors}
    assert dtypes[2, 2, 6, 4] == "bfloat16"


class Block(keras.layers.Layer):
    """A layer with layers inside, one of them under the name of another class."""

    def __init__(self, deconv_name):
        super().__init__()
        self.conv2d = keras.layers.Conv2DTranspose(8, 3, name=deconv_name)
        self.wide = [keras.layers.Conv2DTranspose(8, 3)]

    def call(self, x):
        return self.wide[0](self.conv2d(x))


@pytest.mark.parametrize("name", [None, "up"])
def test_axes_of_kernels_inside_a_custom_layer(tmp_path, name):
    block = Block(name)
    model = keras.Sequential([keras.Input((8, 8, 8)), block])
    for deconv in (block.conv2d, block.wide[0]):
        half = np.repeat([0.0, 1], 4).reshape(8, 1)  # (height, width, out, in)
        deconv.kernel.assign(np.ones((3, 3, 8, 8)) * half)
    model.save(tmp_path / "model.keras")
    report = smart_tf.inspect_file(tmp_path / "model.keras")
    first, wide = (t for t in report.tensors if len(t.shape) == 4)
    assert first.zeros == wide.zeros == 288
    assert set(wide.patterns) == {"1x4", "channel"}
    assert first.patterns == (() if name else wide.patterns)  # None: Keras names it.


def test_biases_with_two_axes_are_no_kernels(tmp_path):
    tokens = keras.Input((6, 16))
    x = keras.layers.GRU(8, return_sequences=True)(tokens)
    model = keras.Model(tokens, keras.layers.MultiHeadAttention(2, 4)(x, x))
    for variable in model.weights:
        variable.assign(np.zeros(variable.shape))
    model.save(tmp_path / "model.keras")
    report = smart_tf.inspect_file(tmp_path / "model.keras")
    biases = [t for t in report.tensors if t.shape in ((2, 24), (2, 4))]
    kernels = [t for t in report.tensors if t not in biases and len(t.shape) > 1]
    assert len(biases) == 4 and len(kernels) == 6
    assert all(t.patterns == () and t.sparse_bytes is None for t in biases)
    assert all("1x4" in t.patterns and t.sparse_bytes for t in kernels)


@pytest.mark.parametrize("mode", ["int4", "float8"])
def test_what_keras_quantized_to_other_than_int8_is_refused(tmp_path, mode):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
    model.quantize(mode)
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=f"Received: path=.*quantized to {mode}"):
        smart_tf.inspect_file(tmp_path / "model.keras")


def wrapper():
    return smart_tf.PrunableLayer(keras.layers.Dense(8), "1x4", sparsity=0.5)


class Holder(keras.Model):
    """A model with a wrapper that its file tells no class of."""

    def __init__(self):
        super().__init__()
        self.held = wrapper()

    def call(self, x):
        return self.held(x)


@pytest.mark.parametrize("held", [False, True])
def test_a_model_with_pruning_wrappers_is_refused(tmp_path, held):
    model = Holder() if held else keras.Sequential([wrapper()])
    model(np.zeros((1, 8), "float32"))
    path = tmp_path / "model.keras"
    model.save(path)
    with pytest.raises(ValueError, match="`smart_tf.strip_pruning.model.`"):
        smart_tf.inspect_file(path)
    smart_tf.strip_pruning(model).save(path)
    assert smart_tf.inspect_file(path).tensors[0].zeros == 32


def test_a_sparse_encoded_file_is_read_as_what_it_stands_for(tmp_path):
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 16)),
            keras.layers.Conv2D(32, 3, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, name="dense"),
        ]
    )
    kernel = rng.uniform(0.1, 1, model.get_layer("dense").kernel.shape)
    kernel *= np.kron(rng.random((144, 4)) < 0.2, np.ones((8, 16)))
    model.get_layer("dense").kernel.assign(kernel)
    conv = rng.uniform(0.1, 1, (3, 3, 16, 32)) * (rng.random((3, 3, 16, 32)) < 0.2)
    model.get_layer("conv").kernel.assign(conv)
    plain = export.to_tflite(model, tmp_path / "plain.tflite")
    report = export.to_tflite(model, tmp_path / "sparse.tflite", sparse=True)
    assert report.bytes < 0.5 * plain.bytes
    assert report.max_difference < 1e-4 * np.abs(kernel).sum()
    assert report.pattern_kept
    dense, sparse = (
        {t.shape: t for t in smart_tf.inspect_file(tmp_path / name).tensors}
        for name in ("plain.tflite", "sparse.tflite")
    )
    for shape in ((64, 1152), (32, 3, 3, 16)):
        assert sparse[shape].zeros == dense[shape].zeros
        assert sparse[shape].patterns == dense[shape].patterns
        assert sparse[shape].bytes < 0.5 * dense[shape].bytes
        assert sparse[shape].sparse_bytes == sparse[shape].bytes
        # Random numbers shrink little; their places are counted in both.
        assert sparse[shape].gzip_bytes > 0.9 * sparse[shape].bytes
    assert "16x8" in sparse[64, 1152].patterns
    # The estimate for the file that is not encoded, against one that is.
    wanted = sparse[64, 1152].bytes
    assert dense[64, 1152].sparse_bytes == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("quantize", ["float16", "dynamic", "int8"])
def test_sparse_encoding_of_quantized_files_is_refused(tmp_path, quantize):
    with pytest.raises(ValueError, match=f"`sparse` must be False with.*{quantize}"):
        export.to_tflite(
            convnet(), tmp_path / "m.tflite", quantize, images(), sparse=True
        )
    assert list(tmp_path.iterdir()) == []


def test_encoded_bytes_by_hand():
    layout = smart_tf.Layout(outputs=(0,), inputs=(1,))
    zeros = np.ones((32, 16), bool)
    zeros[:16, 8:] = False
    # 1x4: sixteen rows of two blocks, with their columns; 32 rows have 33 ends.
    assert encoded_bytes(zeros, layout, item_bytes=4) == 128 * 4 + 32 + 33
    zeros = np.ones((2, 600), bool)
    zeros[1, 599] = False
    # 1x1: a number, its column in two bytes, three row starts; any block stores more.
    assert encoded_bytes(zeros, layout, item_bytes=4) == 4 + 2 + 3


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    path = tmp_path / "model.keras"
    convnet().save(path)
    command.main(["inspect", str(path)])
    text = capsys.readouterr().out
    assert "first/0" in text and "50.0%" in text and "channel" in text
    assert max(map(len, text.splitlines())) <= 120
    command.main(["inspect", "--json", str(path)])
    data = json.loads(capsys.readouterr().out)
    assert data == json.loads(json.dumps(smart_tf.inspect_file(path).to_dict()))
    assert data["bytes"] == path.stat().st_size


@pytest.mark.parametrize("content", [None, b"", b"PK not a zip", b"0123TFL4"])
def test_other_files_are_refused(tmp_path, capsys, content):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="Argument `path` must be"):
        smart_tf.inspect_file(path)
    with pytest.raises(SystemExit) as raised:
        command.main(["inspect", str(path)])
    assert raised.value.code == 2
    assert "`path` must be" in capsys.readouterr().err


@pytest.mark.slow
def test_the_module_runs():
    done = subprocess.run(
        [sys.executable, "-m", "smart_tf", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "inspect" in done.stdout
