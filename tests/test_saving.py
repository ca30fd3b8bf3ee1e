"""Saved and loaded at any time, a pruned model goes on as if nothing had been."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import smart_tf
from smart_tf.flavours import wrappers
from tests.references import (
    EachBatch,
    assert_same,
    compiled,
    data,
    mlp,
    output,
    weights,
    zeros,
)

X, Y = data()
EPOCHS = 4  # of 4 steps; the search takes the second and the third
PHASES = {"pretrain": 2, "search": 7, "freeze": 12, "fine-tune": 14}


def schedule():
    return smart_tf.TemperatureSchedule(4, 12, 1.0, 0.05)


def new_model(kind=mlp):
    model = smart_tf.prune(kind(), 0.75, "4x4")
    return compiled(model, keras.optimizers.Adam(1e-2))


def callback():
    return smart_tf.SmartPruningCallback(schedule=schedule())


def fit(model, *callbacks, epochs=EPOCHS, x=X, y=Y, **kwargs):
    options = {"batch_size": 16, "verbose": 0, "shuffle": False} | kwargs
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **options)


def train_on(model, start, stop):
    """Updates `start` to `stop` of the course of batches, in one `fit`."""
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 64, 16)] * EPOCHS
    taken = tf.data.Dataset.from_generator(
        lambda: iter(batches[start:stop]),
        output_signature=(tf.TensorSpec((16, 16)), tf.TensorSpec((16,), tf.int32)),
    )
    taken = taken.apply(tf.data.experimental.assert_cardinality(stop - start))
    callbacks = [callback() if stop == 16 else StopsEarly(schedule=schedule())]
    model.fit(taken, epochs=1, verbose=0, callbacks=callbacks)
    return model


class StopsEarly(smart_tf.SmartPruningCallback):
    """Does not mind that this `fit` is but a part of the run."""

    def set_params(self, params):
        super().set_params({**params, "steps": None})

    def on_train_end(self, logs=None):
        pass


@pytest.fixture(scope="module")
def uninterrupted():
    model = new_model()
    look = EachBatch(weights)
    fit(model, callback(), look)
    return look.seen


@pytest.mark.parametrize(
    "update",
    [
        pytest.param(update, marks=[pytest.mark.slow] if name != "search" else [])
        for name, update in PHASES.items()
    ],
    ids=PHASES,
)
def test_a_saved_model_goes_on_as_if_never_stopped(update, uninterrupted, tmp_path):
    model = train_on(new_model(), 0, update)
    assert_same(weights(model), uninterrupted[update - 1])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same([output(model, X)], [output(loaded, X)])
    train_on(loaded, update, 16)
    assert_same(weights(loaded), uninterrupted[-1], atol=1e-6)


def test_a_weights_file_is_enough_to_go_on(uninterrupted, tmp_path):
    update = PHASES["search"]
    model = train_on(new_model(), 0, update)
    model.save_weights(tmp_path / "model.weights.h5")
    other = new_model()
    pruner = smart_tf.Pruner(other)
    other.optimizer = pruner.wrap_optimizer(other.optimizer)
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "model.weights.h5")
    assert_same([output(model, X)], [output(other, X)])
    train_on(other, update, 16)
    assert_same(weights(other), uninterrupted[-1], atol=1e-6)


# ---- What a file holds


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, width=16, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.stack = [keras.layers.Dense(width, activation="relu") for _ in range(2)]
        x = keras.Input((width,))
        self.inner = keras.Model(x, keras.layers.Dense(width)(x))
        self.head = keras.layers.Dense(4)

    def build(self, shape):
        for layer in self.stack:
            layer.build((None, self.width))
        self.head.build((None, self.width))
        self.built = True

    def call(self, x):
        for layer in self.stack:
            x = layer(x)
        return self.head(self.inner(x))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def subclassed():
    keras.utils.set_random_seed(1)
    model = Subclassed(name="mine")
    model(X)
    return model


def functional():
    """Nested, with a shared layer and operators."""
    keras.utils.set_random_seed(1)
    inner = keras.Sequential([keras.Input((16,)), keras.layers.Dense(16)], name="in")
    shared = keras.layers.Dense(16, name="shared")
    x = keras.Input((16,))
    y = shared(keras.ops.relu(shared(inner(x)))) + x
    return keras.Model(x, keras.layers.Dense(4)(y), name="outer")


def sparsities(model):
    report = smart_tf.report(model)
    return report.phase, [(k.shape, k.zeros, k.blocks_kept) for k in report.kernels]


KINDS = pytest.mark.parametrize("kind", [mlp, functional, subclassed])


@KINDS
def test_all_kinds_of_models_load_with_masks_and_state(kind, tmp_path):
    model = new_model(kind)
    fit(model, smart_tf.SmartPruningCallback(search_epochs=1), epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(weights(model), weights(loaded))
    assert_same([output(model, X)], [output(loaded, X)])
    assert sparsities(loaded) == sparsities(model)
    fit(loaded, epochs=1)  # frozen: it fine-tunes without any callback
    assert zeros(loaded) == zeros(model) > 0
    stripped = smart_tf.strip_pruning(loaded)
    assert type(stripped) is type(smart_tf.strip_pruning(model))
    assert stripped.name == model.name


@KINDS
def test_stripped_models_are_saved_as_if_never_pruned(kind, tmp_path):
    original = kind()
    config, paths = original.get_config(), [v.path for v in original.variables]
    stripped = smart_tf.strip_pruning(smart_tf.prune(original, 0.75, "4x4"))
    assert stripped.get_config() == config
    stripped.save(tmp_path / "model.keras")
    stripped.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not wrappers(loaded)
    assert type(loaded) is type(stripped)
    assert zeros(loaded) == zeros(stripped)
    fresh = kind()
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert_same([output(stripped, X)], [output(fresh, X)])
    assert [v.path for v in stripped.variables] == paths


def test_a_layer_that_is_frozen_later_is_saved_with_its_masks(tmp_path):
    model = new_model()
    fit(model, callback())
    pruned = zeros(model)
    model.layers[0].trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(output(loaded, X), output(model, X))
    assert smart_tf.report(loaded).sparsity == smart_tf.report(model).sparsity
    loaded.layers[0].trainable = True
    loaded = compiled(loaded, keras.optimizers.Adam(1e-2))
    before = weights(loaded)
    fit(loaded, callback(), epochs=1)
    assert zeros(loaded) == pruned > 0.7
    assert any((a != b).any() for a, b in zip(before, weights(loaded), strict=True))


def test_a_part_that_was_frozen_before_stays_without_masks_when_it_is_loaded(tmp_path):
    inputs = keras.Input((6, 8))
    both = keras.layers.Bidirectional(keras.layers.LSTM(8))
    model = keras.Model(inputs, both(inputs))
    both.forward_layer.trainable = False
    pruned = smart_tf.prune(model, 0.5, "4x4")
    both = pruned.layers[1]
    assert all("backward" in m.weight.name for m in both.weight_masks)
    both.layer.backward_layer.trainable = False
    pruned.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").layers[1]
    shapes = [[m.mask.shape for m in layer.weight_masks] for layer in (both, loaded)]
    assert shapes[0] == shapes[1]
    assert all("backward" in m.weight.name for m in loaded.weight_masks)


def test_a_pruned_model_is_rebuilt_from_its_config():
    model = smart_tf.prune(mlp(), 0.6, "2x8", max_layer_sparsity=0.9)
    again = keras.Sequential.from_config(model.get_config())
    for one, two in zip(wrappers(model), wrappers(again), strict=True):
        assert one.get_config() == two.get_config()
        assert two.structure.shape == (2, 8)
        assert (two.sparsity, two.max_layer_sparsity) == (0.6, 0.9)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert_same([output(model, X)], [output(clone, X)])
    assert wrappers(clone)[0].layer is not wrappers(model)[0].layer


def test_a_wrapper_keeps_its_schedule_in_its_config():
    model = smart_tf.prune(mlp(), 0.5, "4x4", schedule=schedule())
    again = keras.Sequential.from_config(model.get_config())
    assert wrappers(again)[0].schedule == schedule()


@pytest.mark.parametrize(
    "strip",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["pruned", "stripped"],
)
def test_exported_models_serve_the_same(strip, tmp_path):
    model = new_model()
    fit(model, smart_tf.SmartPruningCallback(search_epochs=1), epochs=2)
    expected = output(model, X)
    served = smart_tf.strip_pruning(model) if strip else model
    served.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(loaded.serve(X), expected, atol=1e-6)


def test_saved_models_written_by_tf_serve_the_same(tmp_path):
    model = new_model()
    expected = output(model, X)
    tf.saved_model.save(model, tmp_path / "saved")
    loaded = tf.saved_model.load(tmp_path / "saved")
    serve = loaded.signatures["serving_default"]
    (got,) = serve(tf.constant(X)).values()
    np.testing.assert_allclose(got, expected, atol=1e-6)


# ---- Keras' own callbacks


def test_checkpoints_are_sparse_wherever_their_callback_stands(tmp_path):
    def checkpoints(place):
        path = tmp_path / f"{place}-{{epoch}}"
        return [
            keras.callbacks.ModelCheckpoint(f"{path}.keras"),
            keras.callbacks.ModelCheckpoint(
                f"{path}.weights.h5", save_weights_only=True
            ),
        ]

    model = new_model()
    ours = smart_tf.SmartPruningCallback(search_epochs=1)
    fit(model, *checkpoints("before"), ours, *checkpoints("after"), epochs=2)
    assert zeros(model) == 0.75
    for place in ("before", "after"):
        for epoch in (1, 2):
            loaded = keras.models.load_model(tmp_path / f"{place}-{epoch}.keras")
            other = smart_tf.prune(mlp(), 0.75, "4x4")
            other.load_weights(tmp_path / f"{place}-{epoch}.weights.h5")
            assert zeros(loaded) == zeros(other) == 0.75
            assert_same(weights(loaded), weights(other))
            assert smart_tf.report(loaded).sparsity == 0.75
            assert zeros(smart_tf.strip_pruning(other)) == 0.75
        assert_same([output(model, X)], [output(loaded, X)], atol=1e-6)


class Crash(keras.callbacks.Callback):
    def __init__(self, update):
        super().__init__()
        self.left = update

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise InterruptedError


CRASHES = [
    pytest.param(place, update, marks=marks, id=f"{when}-{order}")
    for place, order in enumerate(("before", "after"))
    for when, update, marks in (
        ("early", 6, pytest.mark.slow),
        ("search", 10, []),
        ("fine-tune", 15, pytest.mark.slow),
    )
]


@pytest.mark.parametrize("place,crash", CRASHES)
def test_a_crashed_run_is_taken_up_by_a_new_process(
    place, crash, uninterrupted, tmp_path
):
    def callbacks():
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        both = [callback()]
        both.insert(place, backup)
        return both

    with pytest.raises(InterruptedError):
        fit(new_model(), *callbacks(), Crash(crash))
    model = new_model()
    look = EachBatch(weights)
    fit(model, *callbacks(), look)
    assert len(look.seen) == 16 - crash // 4 * 4
    for got, expected in zip(look.seen[::-1], uninterrupted[::-1], strict=False):
        assert_same(got, expected, atol=1e-6)
