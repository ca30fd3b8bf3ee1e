"""What the report says before, during and after pruning."""

import json

import keras
import numpy as np
import pytest

import smart_tf
from tests.references import compiled, data, mlp

X, Y = data()


@pytest.fixture(scope="module")
def frozen():
    model = compiled(smart_tf.prune(mlp(), 0.75, "4x4"))
    callback = smart_tf.SmartPruningCallback(search_epochs=1)
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    return model


def test_it_counts_each_kernel(frozen):
    report = smart_tf.report(frozen)
    assert (report.phase, report.structure) == ("frozen", "4x4")
    assert report.sparsity == 0.75
    assert [k.shape for k in report.kernels] == [(16, 16), (16, 16), (16, 4)]
    assert [k.blocks for k in report.kernels] == [16, 16, 4]
    assert sum(k.blocks_kept for k in report.kernels) == 9
    for kernel, layer in zip(report.kernels, frozen.layers, strict=True):
        values = layer.kernel.numpy()
        assert kernel.zeros == (values == 0).sum()
        assert kernel.weights == values.size
        assert kernel.sparsity == kernel.zeros / kernel.weights
        assert kernel.name.endswith(f"{layer.name}/kernel")


def test_parameters_are_those_of_the_plain_model(frozen):
    plain = mlp().count_params()
    assert smart_tf.report(frozen).parameters == plain
    assert smart_tf.report(smart_tf.prune(mlp(), 0.5, "4x4")).parameters == plain
    assert smart_tf.report(mlp()).parameters == plain


def test_before_the_search_it_shows_what_the_magnitudes_would_give():
    model = smart_tf.prune(mlp(), 0.75, "4x4")
    before = smart_tf.report(model)
    assert before.phase == "dense"
    after = smart_tf.report(smart_tf.strip_pruning(model))
    assert after.phase == "plain" and after.structure is None
    assert [k.zeros for k in before.kernels] == [k.zeros for k in after.kernels]
    assert before.sparsity == after.sparsity == 0.75


def test_what_is_left_alone_is_named_once_with_its_reason():
    layers = keras.layers
    x = keras.Input((8, 8, 4))
    y = layers.Rescaling(2.0)(x)
    y = layers.Conv2D(8, 3, name="chosen")(y)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.Conv2D(8, 3, name="frozen", trainable=False)(y)
    y = Strange(name="strange")(layers.ReLU()(y))
    y = layers.Dense(4, name="not_chosen")(layers.Flatten()(y))
    pruned = smart_tf.prune(keras.Model(x, y), 0.5, "4x4", filters="^(?!not_)")
    report = smart_tf.report(pruned)
    assert [k.shape for k in report.kernels] == [(3, 3, 4, 8)]
    assert report.skipped == {
        "norm": "no kernel",
        "frozen": "not trainable",
        "strange": "unknown layer: teach it with smart_tf.register_prunable",
        "not_chosen": "left out when the model was pruned",
    }
    printed = " ".join(str(report).split())
    for reason in report.skipped.values():
        assert printed.count(reason) == 1


def test_a_layer_that_was_unfrozen_too_late_was_left_out_when_the_model_was_pruned():
    model = mlp()
    model.get_layer("first").trainable = False
    pruned = smart_tf.prune(model, 0.5, "4x4")
    pruned.get_layer("first").trainable = True
    left_out = "left out when the model was pruned"
    assert smart_tf.report(pruned).skipped == {"first": left_out}


class Strange(keras.layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, x):
        return x * self.scale


def test_kernels_without_an_axis_for_the_structure_are_named():
    x = keras.Input((8, 8, 4))
    y = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    y = keras.layers.Conv2D(8, 1, name="pointwise")(y)
    report = smart_tf.report(smart_tf.prune(keras.Model(x, y), structure="2:4"))
    assert report.skipped == {"depthwise": "the kernel has no input axis"}


def test_a_plain_model_is_reported_too():
    model = mlp()
    kernel = model.get_layer("first").kernel
    kernel.assign(np.where(np.eye(16), kernel.numpy(), 0.0))
    report = smart_tf.report(model)
    assert report.phase == "plain"
    assert [k.zeros for k in report.kernels] == [240, 0, 0]
    assert report.sparsity == 240 / 576
    assert report.kernels[0].blocks is None


def test_kernels_of_a_plain_model_count_when_they_are_frozen_too():
    """A pruned backbone that is not trained any further is as sparse as before."""
    stripped = smart_tf.strip_pruning(smart_tf.prune(mlp(), 0.75, "4x4"))
    before = smart_tf.report(stripped)
    stripped.trainable = False
    frozen = smart_tf.report(stripped)
    assert frozen.sparsity == before.sparsity == 0.75
    assert frozen.kernels == before.kernels and frozen.skipped == {}


def test_layers_of_the_same_name_are_all_left_alone_by_name():
    inner = keras.Sequential(
        [keras.Input((16,)), keras.layers.Dense(16, name="same", trainable=False)]
    )
    x = keras.Input((16,))
    y = keras.layers.Dense(16, name="same_1", trainable=False)(inner(x))
    y = keras.layers.LayerNormalization(name="same")(y)
    model = keras.Model(x, keras.layers.Dense(4)(y))
    report = smart_tf.report(smart_tf.prune(model, 0.5, "4x4"))
    assert list(report.skipped.values()) == [*["not trainable"] * 2, "no kernel"]
    assert list(report.skipped)[:2] == ["same", "same_1"]


def test_all_structures_of_wrappers_by_hand_are_named():
    wrapped = [
        smart_tf.PrunableLayer(keras.layers.Dense(8), structure, 0.5)
        for structure in ("4x4", "2:4", "4x4")
    ]
    report = smart_tf.report(keras.Sequential([keras.Input((8,)), *wrapped]))
    assert report.structure == "4x4, 2:4"
    assert f"{report.model} (dense, 4x4, 2:4)" in str(report)


class Holds(keras.Model):
    """A model that holds and declares a weight, beside that of a layer."""

    def __init__(self, name):
        super().__init__(name=name)
        self.dense = keras.layers.Dense(8)

    def build(self, shape):
        self.table = self.add_weight(shape=(8, 8), name="table")
        self.dense.build(shape)
        self.built = True

    def call(self, x):
        return self.dense(x) @ self.table

    def get_prunable_weights(self):
        return [self.table, self.dense.kernel]


def test_weights_that_models_hold_themselves_are_left_alone_with_a_reason():
    x = keras.Input((8,))
    inner = Holds("inner")
    model = keras.Model(x, keras.layers.Dense(4, name="last")(inner(x)), name="outer")
    report = smart_tf.report(smart_tf.prune(model, 0.5, "4x4"))
    assert [k.shape for k in report.kernels] == [(8, 8), (8, 4)]
    assert list(report.skipped) == ["inner"]
    assert "held by the model itself: put them in a layer" in report.skipped["inner"]
    alone = Holds("alone")
    alone(np.ones((1, 8)))
    alone.dense.trainable = False
    with pytest.raises(ValueError, match="'alone': its weights are held by the model"):
        smart_tf.prune(alone, 0.5, "4x4")


def test_it_prints_an_aligned_table(frozen):
    lines = str(smart_tf.report(frozen)).splitlines()
    table = [line for line in lines if line.startswith(("│", "┃"))]
    assert len(table) == 1 + 3 + 1  # head, kernels, foot
    assert len({len(line) for line in table}) == 1
    assert "75.00%" in table[-1] and "9 of 36" in table[-1]


def test_it_turns_into_json_and_a_picture(frozen, tmp_path):
    report = smart_tf.report(frozen)
    loaded = json.loads(json.dumps(report.to_dict()))
    assert loaded["sparsity"] == 0.75
    assert loaded["kernels"][0]["zeros"] == report.kernels[0].zeros
    report.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_looking_changes_nothing(frozen):
    before = [v.numpy() for v in frozen.variables]
    smart_tf.report(frozen)
    model = smart_tf.prune(mlp(), 0.75, "4x4")
    untouched = [v.numpy() for v in model.variables]
    smart_tf.report(model)
    for values, variables in ((before, frozen.variables), (untouched, model.variables)):
        assert all(
            (a == b.numpy()).all() for a, b in zip(values, variables, strict=True)
        )


def test_it_turns_into_a_table_of_markdown(frozen):
    report = smart_tf.report(frozen)
    title, head, marks, *rows, foot = [
        line for line in report.to_markdown().splitlines() if line
    ]
    assert title == f"**{report.model} (frozen, 4x4)**"
    cells = [line.strip("|").split("|") for line in (head, marks, *rows, foot)]
    assert {len(row) for row in cells} == {6} and len(rows) == 3
    assert [c.strip() for c in cells[2]][1:3] == ["16x16", "256"]
    assert set(marks) <= set("|-: ")
    for number in ("576", "432", "75.00%", "9 of 36"):
        assert f"**{number}**" in foot
