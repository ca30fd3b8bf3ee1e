"""The README's Python is run as it stands there."""

import keras
import numpy as np
import pytest

from tests.documents import DOCS, ROOT, SNIPPETS, python_blocks

README = (ROOT / "README.md").read_text()
BLOCKS = [block.code for block in python_blocks(ROOT / "README.md")]


def block(containing):
    """The one example with a certain text in it."""
    (found,) = [code for code in BLOCKS if containing in code]
    return found


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the README takes for granted: a model and its data."""
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((32,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    x = np.random.default_rng(0).normal(size=(64, 32)).astype("float32")
    y = np.arange(64) % 10
    return {"model": model, "x": x, "y": y}


def test_the_first_example_prunes_strips_and_converts(names, tmp_path):
    code = block("sparsity=0.9")
    code = code.replace("sparsity=0.9", "sparsity=0.6")  # a model this small
    exec(compile(code, "README.md", "exec"), names)
    assert names["final"].layers[0].kernel.numpy().size == 32 * 64
    zeros = sum((w.numpy() == 0).sum() for w in names["final"].weights if w.ndim == 2)
    assert zeros >= 0.6 * sum(w.numpy().size for w in names["final"].weights[::2])
    assert (tmp_path / "model.tflite").stat().st_size > 0


def test_channels_are_removed_and_the_small_model_trains_on(names):
    import smart_tf

    names["smart_tf"] = smart_tf
    exec(compile(block("smart_tf.shrink"), "README.md", "exec"), names)
    macs = [
        sum(layer.kernel.numpy().size for layer in model.layers)
        for model in (names["model"], names["small"])
    ]
    assert macs[1] <= 0.5 * macs[0]


def test_the_search_is_watched(names, tmp_path):
    import smart_tf

    pruned = smart_tf.prune(names["model"], sparsity=0.5, structure="8x4")
    pruned.compile("sgd", "sparse_categorical_crossentropy")
    names |= {"smart_tf": smart_tf, "pruned": pruned}
    (name,) = [k.name for k in smart_tf.report(pruned).kernels][1:2]
    code = block("mask_histogram").replace('"dense_1"', repr(name))
    exec(compile(code, "README.md", "exec"), names)
    assert len(names["logs"]["mask_gap"]) == len(names["history"].updates) == 20
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"logs", "masks.png", "dense_1.png", "sparsity_by_layer.png"}


def test_the_training_loop_reaches_its_sparsity(names):
    import tensorflow as tf

    import smart_tf

    batches = [(names["x"], names["y"])] * 12
    code = block("smart_tf.Pruner").replace("(0, 1000)", "(0, 10)")
    pruned = smart_tf.prune(names["model"], sparsity=0.5, structure="8x4")
    names |= {"pruned": pruned, "batches": batches, "tf": tf, "keras": keras}
    names |= {"smart_tf": smart_tf}
    names["loss_fn"] = keras.losses.SparseCategoricalCrossentropy()
    exec(compile(code, "README.md", "exec"), names)
    report = smart_tf.report(pruned)
    assert report.phase == "frozen"
    assert 0.5 <= report.sparsity < 0.52


def test_the_method_of_ones_own_prunes_what_did_not_move(names, monkeypatch):
    import smart_tf
    from smart_tf import methods

    monkeypatch.setattr(methods.base, "_METHODS", dict(methods.base._METHODS))
    exec(compile(block("class Movement"), "README.md", "exec"), names)
    pruned = names["pruned"]
    assert pruned.layers[0].method == methods.get("movement") == names["Movement"]()
    pruned.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    masks = [mask for layer in pruned.layers for mask in layer.weight_masks]
    kept = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kept.append(sum(int(m.mask.numpy().sum()) for m in masks))

    schedule = smart_tf.TemperatureSchedule(0, 10)
    callbacks = [smart_tf.SmartPruningCallback(schedule=schedule), Watch()]
    x, y = names["x"], names["y"]
    pruned.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=callbacks)
    blocks = 8 * 8 + 16 * 8 + 16 * 2  # the last kernel's second column is ragged
    assert kept == sorted(kept, reverse=True)
    assert kept[0] < blocks and len(set(kept)) == 10
    final = smart_tf.strip_pruning(pruned)
    zeros = sum((layer.kernel.numpy() == 0).sum() for layer in final.layers)
    weights = 32 * 64 + 64 * 64 + 64 * 10
    assert 0.8 * weights <= zeros < 0.8 * weights + 32  # one block


def test_the_exports_write_their_files(names, tmp_path):
    import smart_tf

    for layer in names["model"].layers:
        kernel = layer.kernel.numpy()
        kernel[:16] = 0
        layer.kernel.assign(kernel)
    names["final"] = names["model"]
    exec(compile(block("masks.npz"), "README.md", "exec"), names)
    made = {path.name for path in tmp_path.iterdir()}
    assert {"int8.tflite", "sparse.tflite", "saved_model", "masks.npz"} <= made
    sparse = smart_tf.inspect_file("sparse.tflite")
    assert all("16x8" in t.patterns for t in sparse.tensors if t.shape == (64, 64))


def test_every_target_is_in_the_readme():
    from smart_tf import targets

    for target in targets.TARGETS.values():
        assert f"| `{target.name}` | `{target.structure}` |" in README


def test_the_demo_table_is_the_one_that_the_demo_wrote():
    table = (DOCS / "quickstart" / "results.md").read_text()
    assert table in README


def test_no_example_is_left_out():
    tested = (
        *("sparsity=0.9", "smart_tf.shrink", "smart_tf.Pruner", "class Movement"),
        *("masks.npz", "smart_tf.MaskHistory"),
    )
    assert sorted(map(block, tested)) == sorted(BLOCKS)


def test_the_method_of_ones_own_is_the_one_of_the_guide():
    (snippet,) = python_blocks(SNIPPETS / "movement.md")
    assert block("class Movement").startswith(snippet.code)
