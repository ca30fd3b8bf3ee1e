"""What all methods have in common, from their names to a run that is taken up again."""

import dataclasses
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import smart_tf
from smart_tf import methods
from tests.references import (
    EachBatch,
    assert_same,
    compiled,
    data,
    kernels,
    mlp,
    output,
    weights,
    zeros,
)

X, Y = data()
NAMED = {
    "smart": methods.Smart,
    "magnitude": methods.Magnitude,
    "pdp": methods.PDP,
    "pas": methods.PaS,
    "awg": methods.AWG,
    "acdc": methods.ACDC,
}
# Milestones at updates 3, 6 and 9, or 4 and 8, of a search of 12.
SHORT = {
    "gradual": methods.Magnitude(updates=4),
    "one-shot": methods.Magnitude(gradual=False, per_layer=True, reduction="max"),
    "pdp": methods.PDP(temperature=1e-2, updates=4),
    "pas": methods.PaS(strength=1e-2),
    "awg": methods.AWG(steps=2, calibration=0.5, decay=0.5),
    "acdc": methods.ACDC(steps=2),
}
SCHEDULE = smart_tf.TemperatureSchedule(0, 12)


@pytest.mark.parametrize("name", NAMED)
def test_a_method_is_found_by_its_name(name):
    assert methods.get(name) == methods.get(name.upper()) == NAMED[name]()


@pytest.mark.parametrize("method", SHORT.values(), ids=SHORT)
def test_a_method_is_rebuilt_from_its_config(method):
    config = json.loads(json.dumps(method.get_config()))
    assert methods.get(config) == method
    assert method != type(method)()


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (methods.Smart, {"initial_spread": -0.1}),
        (methods.Smart, {"group_scale": 0.0}),
        (methods.Smart, {"mask_learning_rate": -1.0}),
        (methods.Smart, {"mask_momentum": 1.0}),
        (methods.Smart, {"mask_momentum": "0.9"}),
        (methods.Smart, {"initial_temperature": -1.0}),
        (methods.Smart, {"initial_temperature": float("inf")}),
        (methods.Smart, {"initial_temperature": None}),
        (methods.Smart, {"final_temperature": 0.0}),
        (methods.Smart, {"final_temperature": 3.5}),
        (methods.Magnitude, {"updates": 0}),
        (methods.Magnitude, {"updates": 2.5}),
        (methods.Magnitude, {"updates": "9"}),
        (methods.Magnitude, {"updates": True}),
        (methods.Magnitude, {"power": 0}),
        (methods.Magnitude, {"power": None}),
        (methods.Magnitude, {"power": True}),
        (methods.Magnitude, {"power": float("nan")}),
        (methods.Magnitude, {"reduction": "median"}),
        (methods.PDP, {"temperature": 0.0}),
        (methods.PDP, {"temperature": [1e-4]}),
        (methods.PDP, {"updates": 0}),
        (methods.PDP, {"updates": 2.5}),
        (methods.PaS, {"strength": -1}),
        (methods.PaS, {"initial_spread": "a"}),
        (methods.PaS, {"mask_momentum": -0.1}),
        (methods.AWG, {"steps": 0}),
        (methods.AWG, {"steps": 2.5}),
        (methods.AWG, {"decay": None}),
        (methods.AWG, {"calibration": 1.0}),
        (methods.AWG, {"decay": 1.0}),
        (methods.ACDC, {"steps": 0}),
        (methods.ACDC, {"steps": 2.5}),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(cls, settings):
    ((name, value),) = settings.items()
    received = re.escape(repr(value))
    with pytest.raises(ValueError, match=f"`{name}` of {cls.__name__}.*{received}"):
        cls(**settings)


def test_settings_are_numbers_of_any_kind():
    assert methods.Magnitude(updates=np.int64(4), power=2) == methods.Magnitude(
        updates=4, power=2.0
    )
    smart = methods.Smart(np.float32(2), 2, group_scale=None, mask_learning_rate=None)
    assert smart.final_temperature == smart.initial_temperature == 2.0


def test_a_config_of_an_unknown_class_says_what_there_is():
    with pytest.raises(ValueError, match="must be one of.*'acdc'.*Received.*'Mine'"):
        methods.get({"class_name": "Mine", "config": {}})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"name": "smart"}, "config dict {'class_name'.*Received.*'name'"),
        ({"class_name": 3}, "config dict {'class_name'"),
        ({"class_name": "Smart", "config": {"rate": 1.0}}, "'Smart' has.*'rate'"),
        ({"class_name": "Smart", "config": [1.0]}, "'Smart' has.*list"),
    ],
)
def test_a_config_that_describes_no_method_says_what_is_missing(config, words):
    with pytest.raises(ValueError, match=f"Argument `method` must be.*{words}"):
        methods.get(config)
    assert methods.get({"class_name": "Smart"}) == methods.Smart()


@pytest.mark.parametrize("name", ["pas", "awg"])
def test_methods_that_rank_blocks_refuse_n_of_m_groups(name):
    model = mlp()
    before = weights(model)
    with pytest.raises(ValueError, match="`method` cannot be combined.*'2:4'"):
        smart_tf.prune(model, structure="2:4", method=name)
    assert_same(before, weights(model))
    assert not smart_tf.flavours.wrappers(model)


@pytest.mark.parametrize(
    "name",
    [
        "pdp",
        "acdc",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("magnitude", "paper")),
    ],
)
def test_the_others_leave_two_of_four(name):
    model = compiled(smart_tf.prune(mlp(), structure="2:4", method=name))
    callback = smart_tf.SmartPruningCallback(search_epochs=1)
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    for kernel in kernels(model).values():
        groups = kernel.T.reshape(-1, 4)  # along the inputs
        np.testing.assert_array_equal((groups != 0).sum(axis=1), 2)


# ---- Channels that run through several layers


def residual():
    """The stem's channels are also those of the branch that is added to it."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    stem = keras.layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    inner = keras.layers.Conv2D(12, 1, activation="relu", name="inner")(stem)
    inner = keras.layers.BatchNormalization(name="norm")(inner)
    branch = keras.layers.Conv2D(8, 3, padding="same", name="branch")(inner)
    pooled = keras.layers.GlobalAveragePooling2D()(stem + branch)
    return keras.Model(inputs, keras.layers.Dense(4)(pooled))


def test_channels_of_several_layers_go_together_by_their_magnitudes():
    model = residual()
    # Stem and branch share channels: small in one, they may be large in both.
    first, *others = model.get_layer("stem").get_weights()
    first[..., 0] *= 1e-3
    model.get_layer("stem").set_weights([first, *others])
    kernel, *others = model.get_layer("branch").get_weights()
    kernel[..., 0] *= 100
    model.get_layer("branch").set_weights([kernel, *others])
    structure = smart_tf.structures.Channel(round_to=1)
    model = compiled(smart_tf.prune(model, 0.5, structure, SHORT["gradual"]))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 6, 6, 3)), rng.integers(4, size=64)
    callback = smart_tf.SmartPruningCallback(schedule=SCHEDULE)
    model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=[callback])
    before = output(model, x)
    plain = smart_tf.strip_pruning(model)
    np.testing.assert_array_equal(output(plain, x), before)
    kept = {
        n: np.abs(plain.get_layer(n).kernel.numpy()).sum(axis=(0, 1, 2)) > 0
        for n in ("stem", "inner", "branch")
    }
    np.testing.assert_array_equal(kept["stem"], kept["branch"])
    assert kept["stem"][0]
    a, b = kept["stem"].sum(), kept["inner"].sum()

    def cost(a, b):
        return 27 * a + a * b + 9 * b * a + 4 * a

    assert cost(a, b) <= 0.5 * cost(8, 12) < min(cost(a + 1, b), cost(a, b + 1))


@pytest.mark.parametrize(
    "method", ["pdp", "acdc", methods.Magnitude(per_layer=True)], ids=str
)
def test_the_others_refuse_them(method):
    model = residual()
    before = weights(model)
    with pytest.raises(ValueError, match="`method` cannot be combined.*layers|kernels"):
        smart_tf.prune(model, 0.5, smart_tf.structures.Channel(round_to=1), method)
    assert_same(before, weights(model))
    alone = smart_tf.structures.Channel(coupled=False)
    assert smart_tf.report(smart_tf.prune(model, 0.5, alone, method)).kernels


# ---- A run from beginning to end, and one that is taken up in its middle


def batches(start, stop):
    """Updates `start` to `stop` of a course of 16 batches."""
    course = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 64, 16)] * 4
    taken = tf.data.Dataset.from_generator(
        lambda: iter(course[start:stop]),
        output_signature=(tf.TensorSpec((16, 16)), tf.TensorSpec((16,), tf.int32)),
    )
    return taken.apply(tf.data.experimental.assert_cardinality(stop - start))


class SaveAt(keras.callbacks.Callback):
    """Saves the model after an update."""

    def __init__(self, update, path):
        super().__init__()
        self.update, self.path = update, path

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self.update:
            self.model.save(self.path)


def run(model, *callbacks, start=0):
    pruning = smart_tf.SmartPruningCallback(schedule=SCHEDULE)
    model.fit(
        batches(start, 16), verbose=0, shuffle=False, callbacks=[*callbacks, pruning]
    )


@pytest.fixture(scope="module", params=SHORT)
def course(request, tmp_path_factory):
    """A model after its run, a file from the middle of it, and its first kernels."""
    path = tmp_path_factory.mktemp("course") / "model.keras"
    model = smart_tf.prune(mlp(), 0.75, "4x4", SHORT[request.param])
    model = compiled(model, keras.optimizers.AdamW(1e-2))
    start = kernels(model)
    # Before the pruning callback: milestones of this update are still to come.
    run(model, SaveAt(7 if request.param == "awg" else 6, path))
    return model, path, start


def test_the_run_ends_exactly_as_sparse_as_asked_and_strips_without_a_change(course):
    model, _, start = course
    assert smart_tf.report(model).phase == "frozen"
    assert zeros(model) == 0.75  # 27 of 36 equal blocks
    for name, kernel in kernels(model).items():
        blocks = kernel.reshape(kernel.shape[0] // 4, 4, -1, 4)
        assert set(np.unique((blocks == 0).mean(axis=(1, 3)))) <= {0.0, 1.0}
        assert (blocks != 0).any()
        assert np.abs(kernel - start[name])[kernel != 0].min() > 0
    before = output(model, X)
    stripped = smart_tf.strip_pruning(model)
    np.testing.assert_array_equal(output(stripped, X), before)
    assert zeros(stripped) == 0.75


def test_a_run_taken_up_from_a_file_ends_the_same(course):
    model, path, _ = course
    loaded = keras.models.load_model(path)
    assert loaded.layers[0].method == model.layers[0].method
    run(loaded, start=int(loaded.layers[0].pruning_step))
    assert_same(weights(model), weights(loaded))


# ---- Every way of running a step


@pytest.mark.parametrize(
    "name",
    ["awg", "acdc", pytest.param("gradual", marks=pytest.mark.slow)],
)
def test_several_steps_per_execution_reach_the_sparsity(name):
    model = smart_tf.prune(mlp(), 0.75, "4x4", SHORT[name])
    run(compiled(model, steps_per_execution=4))
    assert smart_tf.report(model).phase == "frozen"
    assert zeros(model) == 0.75


@pytest.mark.parametrize("name", ["awg", pytest.param("pas", marks=pytest.mark.slow)])
def test_gradient_accumulation_reaches_the_sparsity(name):
    optimizer = keras.optimizers.SGD(1e-2, gradient_accumulation_steps=2)
    model = smart_tf.prune(mlp(), 0.75, "4x4", SHORT[name])
    look = EachBatch(lambda m: [k.logits.numpy() for k in m.layers[0].weight_masks])
    run(compiled(model, optimizer), look)
    moved = [
        np.abs(one[0] - two[0]).max() > 0
        for one, two in zip(look.seen[:8], look.seen[1:9], strict=True)
    ]
    assert moved == [True, False] * 4
    assert zeros(model) == 0.75


@pytest.mark.parametrize(
    "name",
    ["pas", *(pytest.param(n, marks=pytest.mark.slow) for n in ("pdp", "awg"))],
)
def test_jit_takes_the_same_course_as_a_plain_graph(name):
    def trained(**options):
        model = smart_tf.prune(mlp(), 0.75, "4x4", SHORT[name])
        model = compiled(model, keras.optimizers.SGD(1e-2, momentum=0.9), **options)
        run(model)
        return weights(model)

    assert_same(trained(jit_compile=True), trained(jit_compile=False), atol=1e-5)


def test_a_loop_of_ones_own_takes_the_same_course_as_fit():
    def pruned():
        return smart_tf.prune(mlp(), 0.75, "4x4", SHORT["awg"])

    def optimizer():
        return keras.optimizers.SGD(1e-2, momentum=0.9)

    fitted = compiled(pruned(), optimizer())
    run(fitted)
    model = pruned()
    pruner = smart_tf.Pruner(model, SCHEDULE)
    own = pruner.wrap_optimizer(optimizer())
    own.build(model.trainable_variables)
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True)) + sum(model.losses)
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        own.apply_gradients(zip(gradients, variables, strict=True))

    pruner.start()
    for x, y in batches(0, 16):
        train_step(x, y)
        pruner.step()
    assert pruner.is_frozen
    assert_same(weights(fitted), weights(model), atol=1e-5)


# ---- What a method of one's own may count on


@dataclasses.dataclass(frozen=True)
class Diary(methods.Method):
    """Does nothing but write down when it is called."""

    entries: tuple = ()

    def milestones(self):
        return (0.0, 0.25, 0.3, 0.9)

    def update(self, ranking, index):
        DIARY.append((index, ranking.step))


DIARY = []


@pytest.fixture
def diary(monkeypatch):
    monkeypatch.setattr(methods.base, "_METHODS", {"diary": Diary})
    DIARY.clear()
    return DIARY


def test_milestones_come_in_order_each_once_whoever_saves_and_loads(diary, tmp_path):
    path = tmp_path / "model.keras"
    model = compiled(smart_tf.prune(mlp(), 0.75, "4x4", Diary()))
    schedule = smart_tf.TemperatureSchedule(2, 12)  # milestones at 2, 4.5, 5 and 11
    save = SaveAt(5, path)
    callback = smart_tf.SmartPruningCallback(schedule=schedule)
    model.fit(batches(0, 16), verbose=0, shuffle=False, callbacks=[callback, save])
    assert diary == [(0, 2), (1, 4), (2, 5), (3, 11)]
    diary.clear()
    loaded = keras.models.load_model(path)
    callback = smart_tf.SmartPruningCallback()
    loaded.fit(batches(5, 16), verbose=0, shuffle=False, callbacks=[callback])
    assert diary == [(3, 11)]  # 2 was done before the file was written


def test_milestones_that_an_execution_runs_past_are_made_up_for(diary):
    model = compiled(smart_tf.prune(mlp(), 0.75, "4x4", Diary()), steps_per_execution=8)
    callback = smart_tf.SmartPruningCallback(schedule=SCHEDULE)
    model.fit(batches(0, 16), verbose=0, shuffle=False, callbacks=[callback])
    assert diary == [(0, 0), (1, 8), (2, 8), (3, 16)]


def test_a_later_search_begins_with_its_own_milestones(diary):
    model = compiled(smart_tf.prune(mlp(), 0.75, "4x4", Diary()))
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 40))
    pruner.start()
    later = smart_tf.TemperatureSchedule(6, 10)
    callback = smart_tf.SmartPruningCallback(schedule=later)
    model.fit(batches(0, 16), verbose=0, shuffle=False, callbacks=[callback])
    assert diary == [(0, 0), (0, 6), (1, 7), (2, 7), (3, 9)]
