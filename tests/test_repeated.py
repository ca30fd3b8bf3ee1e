"""A model that is trained, pruned or refused more than once."""

import collections

import keras
import numpy as np
import pytest

import smart_tf
from smart_tf import flavours

rng = np.random.default_rng(0)
X, Y = rng.random((64, 8), "float32"), rng.random((64, 3), "float32")


def small_model():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(32, "relu"),
            layers.Dense(32, "relu"),
            layers.Dense(3),
        ]
    )


def fit(model, epochs=4, **settings):
    callback = smart_tf.SmartPruningCallback(search_epochs=epochs - 1, **settings)
    fitted = model.fit(X, Y, 8, epochs, verbose=0, callbacks=[callback])
    return fitted.history


@pytest.mark.parametrize("own_schedule", [False, True])
def test_a_fit_without_the_callback_does_not_keep_the_next_one_from_searching(
    own_schedule,
):
    """The first `fit` traces a graph without a search, and with another optimizer."""
    schedule = smart_tf.TemperatureSchedule(0, 24) if own_schedule else None
    pruned = smart_tf.prune(small_model(), 0.5, "4x4", schedule=schedule)
    pruned.compile("adam", "mse")
    with pytest.warns(UserWarning, match="nothing drives the pruning"):
        pruned.fit(X, Y, 8, 1, verbose=0)
    before = int(pruned.optimizer.iterations.numpy())
    logs = fit(pruned)
    assert logs["temperature"][0] < 1 and logs["temperature"][-1] == pytest.approx(0.01)
    assert logs["soft_sparsity"][0] == pytest.approx(0.5, abs=0.02)
    assert int(pruned.optimizer.iterations.numpy()) == before + 32


def test_a_model_can_be_pruned_again_with_less_sparsity():
    model = small_model()
    start = model.get_weights()
    for sparsity in (0.9, 0.3):
        model.set_weights(start)
        pruned = smart_tf.prune(model, sparsity, "4x4")
        pruned.compile("adam", "mse")
        fit(pruned)
        kernels = [layer.layer.kernel for layer in flavours.wrappers(pruned)]
        kernels = np.concatenate([kernel.numpy().ravel() for kernel in kernels])
        assert np.mean(kernels == 0) == pytest.approx(sparsity, abs=0.02)
        final = smart_tf.strip_pruning(pruned)
        assert all(layer.kernel.constraint is None for layer in final.layers)


def test_stripping_what_was_pruned_first_leaves_what_was_pruned_later():
    model = small_model()
    first = smart_tf.prune(model, 0.5, "4x4")
    second = smart_tf.prune(model, 0.5, "4x4")
    smart_tf.strip_pruning(first)
    second.compile("adam", "mse")
    logs = fit(second)
    assert logs["temperature"][-1] == pytest.approx(0.01)
    assert smart_tf.report(second).phase == "frozen"


def test_what_is_refused_later_leaves_what_was_pruned_first():
    model = small_model()
    first = smart_tf.prune(model, 0.5, "4x4")
    with pytest.raises(ValueError, match="sparsity"):
        smart_tf.prune(model, 0.99, "32x32", max_layer_sparsity=0.99)
    first.compile("adam", "mse")
    assert fit(first)["sparsity"][-1] == pytest.approx(0.5, abs=0.02)
    assert smart_tf.report(first).phase == "frozen"


@pytest.mark.parametrize("structure", ["unstructured", "4x4"])
def test_nothing_goes_at_a_sparsity_of_zero(structure):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(32)])
    model.add(keras.layers.Dense(4))
    pruned = smart_tf.prune(model, 0.0, structure)
    pruned.compile("adam", "mse")
    callback = smart_tf.SmartPruningCallback(search_epochs=2)
    y = np.repeat(Y[:, :1], 4, axis=1)
    logs = pruned.fit(X, y, 8, 3, verbose=0, callbacks=[callback]).history
    assert np.isfinite(logs["loss"]).all()
    assert logs["sparsity"][-1] == 0.0


@keras.saving.register_keras_serializable("smart_tf_tests")
class Head(keras.Model):
    """Functional, by an `__init__` whose arguments no clone can know."""

    def __init__(self):
        inputs = keras.Input((8,))
        super().__init__(inputs, keras.layers.Dense(3)(inputs))

    def call(self, inputs):
        return super().call(inputs)


class Body(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(8)

    def call(self, inputs):
        return self.dense(inputs)


class Top(keras.Model):
    def __init__(self):
        super().__init__()
        self.body, self.head = Body(), Head()

    def call(self, inputs):
        return self.head(self.body(inputs))


def test_a_model_that_cannot_be_pruned_is_left_as_it_was():
    """Its first part is wrapped when the second one turns out not to be clonable."""
    model = Top()
    before = model(X).numpy()
    with pytest.raises(ValueError, match="cloned"):
        smart_tf.prune(model, 0.5, "4x4")
    assert type(model.body.dense) is keras.layers.Dense
    assert not flavours.wrappers(model)
    assert model.body.dense.kernel.constraint is None
    assert (model(X).numpy() == before).all()
    assert smart_tf.strip_pruning(model) is model


def test_layers_in_a_namedtuple_are_pruned():
    Pair = collections.namedtuple("Pair", "a b")

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.pair = Pair(keras.layers.Dense(8), keras.layers.Dense(3))

        def call(self, inputs):
            return self.pair.b(self.pair.a(inputs))

    model = Model()
    model(X)
    pruned = smart_tf.prune(model, 0.5, "4x4")
    assert flavours.is_wrapper(pruned.pair.a)
    assert pruned(X).shape == (64, 3)


def test_a_part_of_a_model_is_refused_before_the_whole_one_is_touched():
    encoder = keras.Sequential(
        [keras.Input((32,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(32)],
        name="encoder",
    )
    inputs = keras.Input((8,))
    x = keras.layers.Dense(32, "relu")(inputs)
    outputs = keras.layers.Dense(3)(encoder(x))
    model = keras.Model(inputs, outputs)
    pruned = smart_tf.prune(model, 0.5, smart_tf.Channel(round_to=1))
    rankings = {id(layer.ranking) for layer in flavours.wrappers(pruned)}
    part = pruned.get_layer("encoder")
    for refused in (smart_tf.Pruner, smart_tf.strip_pruning):
        with pytest.raises(ValueError, match="whole model"):
            refused(part)
        found = {id(layer.ranking) for layer in flavours.wrappers(pruned)}
        assert found == rankings and len(found) == 1


def test_wrappers_of_different_methods_are_not_ranked_against_each_other():
    model = keras.Sequential([keras.Input((8,))])
    for method in ("magnitude", "smart"):
        layer = keras.layers.Dense(32)
        model.add(smart_tf.PrunableLayer(layer, "4x4", 0.5, method=method))
    model.add(keras.layers.Dense(3))
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match=r"one method.*Magnitude.*Smart"):
        fit(model)


def test_updates_are_whole_numbers():
    for steps in ((0.2, 0.9), (0, 10.5)):
        with pytest.raises(ValueError, match="whole number"):
            smart_tf.TemperatureSchedule(*steps)
    assert smart_tf.TemperatureSchedule(0, np.int64(5)).end_step == 5
    assert smart_tf.TemperatureSchedule(0, 5.0).end_step == 5
