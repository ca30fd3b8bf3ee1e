"""Pre-training, search and fine-tuning: in `fit`, and in a loop of one's own."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import smart_tf
from smart_tf.search import DENSE, FROZEN, SEARCHING
from tests.references import (
    EachBatch,
    EachEpoch,
    assert_same,
    compiled,
    data,
    greedy_topk,
    kernels,
    mlp,
    temperature_at,
    weights,
    zeros,
)

X, Y = data()
# A kernel of (16, 16), (16, 16) and (16, 4) in tiles of 4x4: 16 + 16 + 4 blocks.
BLOCKS = 36


def pruned_mlp(optimizer="sgd", sparsity=0.75, structure="4x4", **kwargs):
    return compiled(smart_tf.prune(mlp(), sparsity, structure), optimizer, **kwargs)


def fit(model, *callbacks, epochs=4, x=X, y=Y, batch_size=16, **kwargs):
    kwargs = {"verbose": 0, "shuffle": False} | kwargs
    return model.fit(
        x, y, batch_size=batch_size, epochs=epochs, callbacks=list(callbacks), **kwargs
    )


def wrappers(model):
    return [layer for layer in model.layers if hasattr(layer, "weight_masks")]


def phase(model):
    return float(wrappers(model)[0].search_state[0])


def temperature(model):
    return float(wrappers(model)[0].search_state[1])


def logits(model):
    return [m.logits.numpy() for layer in wrappers(model) for m in layer.weight_masks]


def masks(model):
    return [m.mask.numpy() for layer in wrappers(model) for m in layer.weight_masks]


def updates(model):
    return int(wrappers(model)[0].pruning_step)


# ---- One `fit`


def test_the_three_phases_follow_each_other_inside_one_fit():
    model = pruned_mlp()
    look = EachBatch(lambda m: (updates(m), phase(m), temperature(m), zeros(m)))
    callback = smart_tf.SmartPruningCallback(
        pretrain_epochs=1,
        search_epochs=2,
        initial_temperature=3.0,
        final_temperature=0.1,
    )
    history = fit(model, callback, look)  # 4 epochs of 4 steps
    steps, phases, temperatures, sparsity = zip(*look.seen, strict=True)
    assert steps == tuple(range(1, 17))
    assert phases == (DENSE,) * 4 + (SEARCHING,) * 7 + (FROZEN,) * 5
    expected = [temperature_at(s, 8, 3.0, 0.1) for s in range(7)]
    np.testing.assert_allclose(temperatures[4:11], expected, rtol=1e-4)
    assert set(sparsity[:11]) == {0.0}
    assert set(sparsity[11:]) == {0.75}
    assert history.history["sparsity"][-1] == 0.75
    assert "temperature" in history.history


@pytest.fixture(scope="module")
def course():
    """A model after its run, and phase, logits, masks and kernels after each update."""
    model = pruned_mlp(sparsity=0.6)
    look = EachBatch(lambda m: (phase(m), logits(m), masks(m), kernels(m)))
    fit(model, smart_tf.SmartPruningCallback(search_epochs=1), look, epochs=2)
    return model, look.seen


def test_the_freeze_keeps_the_hard_top_k_of_the_logits(course):
    model, seen = course
    first = [p for p, *_ in seen].index(FROZEN)
    _, last_logits, hard, _ = seen[first]
    kept = greedy_topk(last_logits, 0.4 * BLOCKS)
    for mask, keep in zip(hard, kept, strict=True):
        np.testing.assert_array_equal(mask.ravel(), keep)
    assert sum(m.sum() for m in hard) == 14  # floor(14.4): exact to one block
    assert zeros(model) == 1 - 14 / BLOCKS


def test_pruned_blocks_are_zero_and_kept_blocks_are_not(course):
    model, _ = course
    for mask, kernel in zip(masks(model), kernels(model).values(), strict=True):
        spread = np.kron(mask, np.ones((4, 4)))
        np.testing.assert_array_equal(kernel != 0, spread == 1)


def test_fine_tuning_trains_the_weights_and_leaves_the_logits(course):
    _, seen = course
    frozen = [state for state in seen if state[0] == FROZEN]
    (_, l1, _, w1), *_, (_, l2, _, w2) = frozen
    assert_same(l1, l2)
    assert all(np.abs(w1[k] - w2[k]).max() > 0 for k in w1)


def test_logits_get_no_gradient_outside_the_search():
    model = smart_tf.prune(mlp(), 0.5, "4x4")
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(2, 4))
    pruner.start()

    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(X, training=True) ** 2)
        variables = [m.logits for m in pruner.ranking.masks]
        return [float(np.abs(g).max()) for g in tape.gradient(loss, variables)]

    for step, expected in ((0, False), (3, True), (4, False)):
        for layer in pruner.layers:
            layer.pruning_step.assign(step)
        pruner.step(0 if step < 4 else 4)
        assert (max(gradients()) > 0) == expected


def test_the_search_learns_from_the_loss():
    """A block that the loss needs outranks larger ones that it does not."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    y = x[:, :2] @ np.array([[1.0], [-1.0]], "float32")  # only two inputs matter
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, use_bias=False)])
    small_where_needed = np.array([0.4, -0.4] + 6 * [0.5], "float32")[:, None]
    model.set_weights([small_where_needed])
    model = smart_tf.prune(model, 0.75, "unstructured")
    model.compile(keras.optimizers.SGD(0.02), "mse")
    fit(model, smart_tf.SmartPruningCallback(search_epochs=3), x=x, y=y)
    (kernel,) = kernels(model).values()
    np.testing.assert_array_equal(np.flatnonzero(kernel), [0, 1])


def test_logits_start_from_the_magnitudes_when_the_search_begins():
    """Not from those that the weights had before the pre-training."""
    model = pruned_mlp(keras.optimizers.SGD(0.5))
    seen = {}

    class AtTheBeginning(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen[epoch] = (logits(self.model), kernels(self.model))

    fit(model, smart_tf.SmartPruningCallback(1, 1), AtTheBeginning(), epochs=3)
    got, raw = seen[0]
    rms = [
        np.sqrt((k.reshape(k.shape[0] // 4, 4, -1, 4) ** 2).mean(axis=(1, 3))).ravel()
        for k in raw.values()
    ]
    pooled = np.concatenate(rms)
    expected = 0.1 * (pooled - pooled.mean()) / pooled.std()
    np.testing.assert_allclose(
        np.concatenate([g.ravel() for g in got]), expected, atol=1e-5
    )


@pytest.mark.parametrize(
    "how",
    [
        {"steps_per_execution": 3},
        pytest.param({"run_eagerly": True}, marks=pytest.mark.slow),
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_way_of_running_a_step_takes_the_same_course(how):
    plain, other = pruned_mlp(), pruned_mlp(**how)
    callbacks = [smart_tf.SmartPruningCallback(search_epochs=1.5) for _ in range(2)]
    fit(plain, callbacks[0], epochs=3)  # 4 steps an epoch, search of 6
    fit(other, callbacks[1], epochs=3)
    assert updates(other) == updates(plain) == 12
    assert phase(other) == FROZEN
    assert zeros(other) == 0.75
    if "steps_per_execution" not in how:  # its freeze comes up to two steps later
        assert_same(weights(plain), weights(other), atol=1e-4)


def test_temperature_falls_inside_of_one_execution_of_several_steps():
    model = pruned_mlp(steps_per_execution=4)
    look = EachBatch(lambda m: (updates(m), phase(m), temperature(m)))
    schedule = smart_tf.TemperatureSchedule(0, 6, 2.0, 0.1)
    fit(model, smart_tf.SmartPruningCallback(schedule=schedule), look, epochs=2)
    (four, searching, tau), (eight, frozen, _) = look.seen
    assert (four, searching, eight, frozen) == (4, SEARCHING, 8, FROZEN)
    assert tau == pytest.approx(temperature_at(3, 6, 2.0, 0.1), rel=1e-4)


def test_masks_stay_soft_if_an_execution_runs_past_the_end_of_the_search():
    """Not dense again, for the rest of its steps."""
    model = pruned_mlp()
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 4, 1.0, 0.1))
    pruner.start()
    for layer in pruner.layers:
        layer.pruning_step.assign(3)
    model(X, training=True)
    for layer in pruner.layers:
        layer.pruning_step.assign(6)
    model(X, training=True)
    assert phase(model) == SEARCHING
    assert temperature(model) == pytest.approx(0.1)


def test_the_first_search_begins_inside_an_execution_with_fresh_logits():
    model = pruned_mlp(keras.optimizers.SGD(0.5), steps_per_execution=4)
    schedule = smart_tf.TemperatureSchedule(2, 6)
    before = logits(model)
    look = EachBatch(logits)
    fit(model, smart_tf.SmartPruningCallback(schedule=schedule), look, epochs=2)
    assert any(
        np.abs(a - b).max() > 0 for a, b in zip(before, look.seen[0], strict=False)
    )
    assert phase(model) == FROZEN


def test_gradient_accumulation_counts_batches_and_freezes():
    optimizer = keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2)
    model = pruned_mlp(optimizer)
    look = EachBatch(lambda m: (updates(m), phase(m), temperature(m), logits(m)))
    callback = smart_tf.SmartPruningCallback(search_epochs=2)
    fit(model, callback, look, epochs=3)
    assert [s for s, *_ in look.seen] == list(range(1, 13))
    temperatures = [t for _, _, t, _ in look.seen[:7]]
    assert all(a > b for a, b in zip(temperatures, temperatures[1:], strict=False))
    moved = [
        any(np.abs(a - b).max() > 0 for a, b in zip(one[3], two[3], strict=True))
        for one, two in zip(look.seen[:7], look.seen[1:7], strict=False)
    ]
    assert moved == [True, False, True, False, True, False]
    assert phase(model) == FROZEN and zeros(model) == 0.75


def test_partial_last_batches_are_steps_too():
    model = pruned_mlp()
    fit(model, smart_tf.SmartPruningCallback(search_epochs=1), epochs=2, batch_size=24)
    assert updates(model) == 6
    assert phase(model) == FROZEN


def test_datasets_and_validation_data():
    model = pruned_mlp(metrics=["accuracy"])
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(20)
    history = model.fit(
        dataset,
        epochs=3,
        verbose=0,
        validation_data=dataset,
        callbacks=[smart_tf.SmartPruningCallback(search_epochs=1)],
    )
    assert zeros(model) == 0.75
    assert updates(model) == 12  # validation steps are not counted
    again = model.evaluate(dataset, verbose=0, return_dict=True)
    assert again["loss"] == pytest.approx(history.history["val_loss"][-1], rel=1e-5)


def generator():
    for at in range(0, 64, 16):
        yield X[at : at + 16], Y[at : at + 16]


def unknown_cardinality():
    signature = (tf.TensorSpec((None, 16)), tf.TensorSpec((None,), tf.int32))
    return tf.data.Dataset.from_generator(generator, output_signature=signature)


def test_unknown_cardinality_works_with_a_schedule_in_updates():
    model = pruned_mlp()
    schedule = smart_tf.TemperatureSchedule(2, 6)
    callback = smart_tf.SmartPruningCallback(schedule=schedule)
    model.fit(unknown_cardinality(), epochs=3, verbose=0, callbacks=[callback])
    assert zeros(model) == 0.75


def test_unknown_cardinality_needs_a_schedule_or_the_steps_of_an_epoch():
    model = pruned_mlp()
    before = weights(model)
    callback = smart_tf.SmartPruningCallback(search_epochs=1)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        model.fit(unknown_cardinality(), epochs=3, verbose=0, callbacks=[callback])
    assert_same(before, weights(model))


@pytest.mark.slow
def test_unknown_cardinality_works_with_the_steps_of_an_epoch():
    model = pruned_mlp()
    model.fit(
        unknown_cardinality().repeat(),
        steps_per_epoch=4,
        epochs=2,
        verbose=0,
        callbacks=[smart_tf.SmartPruningCallback(search_epochs=1)],
    )
    assert zeros(model) == 0.75


def test_by_default_half_of_the_epochs_search():
    model = pruned_mlp()
    look = EachEpoch(phase)
    fit(model, smart_tf.SmartPruningCallback(), look, epochs=4)
    assert look.seen == [SEARCHING, FROZEN, FROZEN, FROZEN]


@pytest.mark.parametrize(
    ("first", "epochs", "arguments", "begin_and_end"),
    [
        (5, 10, {}, (0, 10)),
        (6, 10, {}, (0, 8)),
        (6, 12, {"pretrain_epochs": 2}, (8, 16)),
    ],
)
def test_a_run_may_begin_at_a_later_epoch(first, epochs, arguments, begin_and_end):
    model, look = pruned_mlp(), EachEpoch(phase)
    callback = smart_tf.SmartPruningCallback(**arguments)
    fit(model, callback, look, epochs=epochs, initial_epoch=first)
    schedule = wrappers(model)[0].schedule
    assert (schedule.begin_step, schedule.end_step) == begin_and_end
    assert look.seen[-2:] == [FROZEN, FROZEN]


def test_a_run_that_goes_on_at_a_later_epoch_counts_from_its_beginning():
    model = pruned_mlp()
    with pytest.raises(Interrupted):
        fit(model, smart_tf.SmartPruningCallback(1), InterruptAt(7), epochs=7)
    fit(model, smart_tf.SmartPruningCallback(1), epochs=7, initial_epoch=2)
    schedule = wrappers(model)[0].schedule
    assert (schedule.begin_step, schedule.end_step) == (4, 16)


def test_no_layer_is_emptied():
    """Blocks of one layer would all rank last."""
    model = mlp()
    kernel = model.get_layer("second").kernel
    kernel.assign(1e-3 * kernel.numpy())
    model = compiled(smart_tf.prune(model, 0.6, "4x4", max_layer_sparsity=0.75))
    fit(model, smart_tf.SmartPruningCallback(search_epochs=1), epochs=2)
    kept = [int(m.sum()) for m in masks(model)]
    assert kept[1] == 4  # a quarter of 16
    assert sum(kept) == 14


# ---- Runs that would go wrong


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"search_epochs": 5}, "too short"),
        ({"pretrain_epochs": 3, "search_epochs": 2}, "too short"),
        ({"pretrain_epochs": 4}, "no update"),
        ({"pretrain_epochs": 9}, "no update"),
        ({"search_epochs": 0.01}, "no update"),
        ({"schedule": smart_tf.TemperatureSchedule(0, 17)}, "too short"),
        ({"schedule": smart_tf.TemperatureSchedule(100, 200)}, "too short"),
        ({"initial_temperature": 0.0}, "`final_temperature` must be"),
        ({"final_temperature": 0.0}, "`final_temperature` must be"),
        (
            {"initial_temperature": 0.1, "final_temperature": 0.2},
            "`final_temperature` must be",
        ),
    ],
    ids=str,
)
def test_a_schedule_that_cannot_be_stops_before_the_first_step(arguments, words):
    model = pruned_mlp()
    before = weights(model)
    with pytest.raises(ValueError, match=words):
        fit(model, smart_tf.SmartPruningCallback(**arguments), epochs=4)
    assert_same(before, weights(model))


class TwoOptimizers(keras.Model):
    """Updates one part twice in a batch, as discriminators are."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(16), keras.layers.Dense(4)

    def compile(self, one, two):
        super().compile(loss="mse")
        self.one, self.two = one, two

    def call(self, x, training=None):
        return self.second(self.first(x, training=training), training=training)

    def train_step(self, x):
        for part, optimizer in [
            (self.first, self.one),
            (self.second, self.two),
            (self.second, self.two),
        ]:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self(x, training=True)))
            weights = part.trainable_variables
            gradients = tape.gradient(loss, weights)
            optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return {"loss": loss}


def two_optimizers(wrap=lambda pruned, optimizer: optimizer):
    model = TwoOptimizers()
    model(X)
    pruned = smart_tf.prune(model, 0.5, "4x4")
    pruned.compile(*[wrap(pruned, keras.optimizers.SGD(0.01)) for _ in range(2)])
    return pruned


def test_a_train_step_with_more_updates_and_other_optimizers_is_told():
    with pytest.warns(UserWarning) as caught:
        fit(two_optimizers(), smart_tf.SmartPruningCallback(search_epochs=1), y=None)
    said = [str(warning.message) for warning in caught]
    assert len(said) == 2
    assert "makes 2 optimizer updates" in said[0] and "`schedule`" in said[0]
    assert "other optimizers than `model.optimizer`" in said[1]


def test_a_schedule_counts_the_updates_of_such_a_train_step():
    def wrap(pruned, optimizer):
        return smart_tf.Pruner(pruned).wrap_optimizer(optimizer)

    model = two_optimizers(wrap)
    look = EachBatch(lambda m: m.second.search_state[0].numpy())
    schedule = smart_tf.TemperatureSchedule(8, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, smart_tf.SmartPruningCallback(schedule=schedule), look, y=None)
    # Two updates in each of the 16 batches; the state is that of the last forward pass.
    assert look.seen == [DENSE] * 4 + [SEARCHING] * 7 + [FROZEN] * 5
    assert smart_tf.report(model).phase == "frozen"


def test_a_search_that_just_fits_is_fine():
    model = pruned_mlp()
    fit(model, smart_tf.SmartPruningCallback(search_epochs=2), epochs=2)
    assert zeros(model) == 0.75


def test_a_forgotten_callback_is_one_warning():
    model = pruned_mlp()
    with pytest.warns(UserWarning) as caught:
        fit(model, epochs=2)
    assert len(caught) == 1
    assert "SmartPruningCallback" in str(caught[0].message)


def test_a_forgotten_callback_is_one_warning_for_wrappers_by_hand_too():
    layers = [
        smart_tf.PrunableLayer(keras.layers.Dense(8), "4x4", 0.5) for _ in range(3)
    ]
    model = keras.Sequential([keras.Input((16,)), *layers])
    with pytest.warns(UserWarning) as caught:
        fit(compiled(model), epochs=1)
    assert len(caught) == 1


def test_a_driven_run_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(pruned_mlp(), smart_tf.SmartPruningCallback(search_epochs=1))


def test_early_stopping_in_mid_search_is_one_warning():
    model = pruned_mlp()
    stop = keras.callbacks.EarlyStopping("loss", patience=0, min_delta=1e9)
    with pytest.warns(UserWarning, match="middle of the search") as caught:
        fit(model, smart_tf.SmartPruningCallback(search_epochs=6), stop, epochs=8)
    assert len(caught) == 1
    assert "loss scaling" not in str(caught[0].message)
    stripped = smart_tf.strip_pruning(model)
    assert zeros(stripped) == 0.75


def test_updates_that_loss_scaling_skips_may_leave_the_search_unfinished():
    scaling = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(), initial_scale=np.inf
    )
    model = pruned_mlp(scaling)
    with pytest.warns(UserWarning, match="at update 0 of 0 to 8.*loss scaling skips"):
        fit(model, smart_tf.SmartPruningCallback(search_epochs=2), epochs=2)


def test_training_that_ends_before_the_search_says_so():
    schedule = smart_tf.TemperatureSchedule(1000, 2000)
    callback = smart_tf.SmartPruningCallback(schedule=schedule)
    with pytest.warns(UserWarning, match="before the search"):
        pruned_mlp().fit(unknown_cardinality(), verbose=0, callbacks=[callback])


# ---- Several `fit`s


def test_a_second_fit_fine_tunes_a_frozen_model():
    model = pruned_mlp("adam")
    fit(model, smart_tf.SmartPruningCallback(search_epochs=1), epochs=2)
    before, first = masks(model), kernels(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, epochs=1)  # no callback needed any more
        fit(model, smart_tf.SmartPruningCallback(search_epochs=1), epochs=1)
        fit(model, smart_tf.SmartPruningCallback(), epochs=1)
    assert_same(before, masks(model))
    assert zeros(model) == 0.75
    assert all(np.abs(first[k] - v).max() > 0 for k, v in kernels(model).items())


@pytest.mark.slow
def test_a_search_goes_on_in_a_second_fit():
    model = pruned_mlp()
    schedule = smart_tf.TemperatureSchedule(0, 8, 2.0, 0.1)
    look = EachBatch(temperature)
    with pytest.raises(Interrupted):
        callback = smart_tf.SmartPruningCallback(schedule=schedule)
        fit(model, callback, look, InterruptAt(5), epochs=4)
    fit(model, smart_tf.SmartPruningCallback(), look, epochs=2)
    expected = [temperature_at(s, 8, 2.0, 0.1) for s in range(7)]
    np.testing.assert_allclose(look.seen[:7], expected, rtol=1e-4)
    assert phase(model) == FROZEN


def test_a_second_fit_may_bring_another_schedule():
    model = pruned_mlp()
    first, second = (
        smart_tf.TemperatureSchedule(0, end, tau, 0.1)
        for end, tau in ((100, 2.0), (12, 0.5))
    )
    look = EachBatch(temperature)
    with pytest.raises(Interrupted):
        callback = smart_tf.SmartPruningCallback(schedule=first)
        fit(model, callback, InterruptAt(4), epochs=100)
    fit(model, smart_tf.SmartPruningCallback(schedule=second), look, epochs=3)
    expected = [temperature_at(s, 12, 0.5, 0.1) for s in range(4, 11)]
    np.testing.assert_allclose(look.seen[:7], expected, rtol=1e-4)
    assert zeros(model) == 0.75


class Interrupted(Exception):
    pass


class InterruptAt(keras.callbacks.Callback):
    def __init__(self, update):
        super().__init__()
        self.update, self.count = update, 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1
        if self.count == self.update:
            raise Interrupted


# ---- A loop of one's own


@pytest.mark.parametrize(
    ("traced", "persistent"),
    [(True, False), (True, True), pytest.param(False, False, marks=pytest.mark.slow)],
    ids=["graph", "persistent tape", "eager"],
)
def test_a_custom_loop_takes_the_same_course_as_fit(traced, persistent):
    schedule = smart_tf.TemperatureSchedule(1, 5, 1.0, 0.05)
    fitted = pruned_mlp(keras.optimizers.Adam(1e-2))
    callback = smart_tf.SmartPruningCallback(schedule=schedule)
    fit(fitted, callback, epochs=2)

    model = smart_tf.prune(mlp(), 0.75, "4x4")
    pruner = smart_tf.Pruner(model, schedule)
    optimizer = pruner.wrap_optimizer(keras.optimizers.Adam(1e-2))
    optimizer.build(model.trainable_variables)
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def train_step(x, y):
        with tf.GradientTape(persistent=persistent) as tape:
            loss = loss_fn(y, model(x, training=True))
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    train_step = tf.function(train_step) if traced else train_step
    pruner.start()
    phases = []
    for _ in range(2):
        for at in range(0, 64, 16):
            train_step(tf.constant(X[at : at + 16]), tf.constant(Y[at : at + 16]))
            pruner.step()
            phases.append(pruner.phase)
    assert phases == [DENSE] + [SEARCHING] * 3 + [FROZEN] * 4
    assert_same(weights(fitted), weights(model), atol=1e-5)


def test_a_pruner_without_a_schedule_does_not_start():
    with pytest.raises(ValueError, match="Argument `schedule`.*Received"):
        smart_tf.Pruner(smart_tf.prune(mlp(), 0.5, "4x4")).start()


def test_a_plain_model_has_nothing_to_drive():
    with pytest.raises(ValueError, match="no pruning wrappers"):
        smart_tf.Pruner(mlp())
    with pytest.raises(ValueError, match="smart_tf.prune"):
        fit(compiled(mlp()), smart_tf.SmartPruningCallback())


def test_a_fit_without_an_epoch_left_changes_nothing():
    model = pruned_mlp()
    fit(model, smart_tf.SmartPruningCallback(search_epochs=2))
    before = weights(model)
    fit(model, smart_tf.SmartPruningCallback(), initial_epoch=4)
    assert_same(before, weights(model))


def test_without_a_kernel_that_is_trained_there_is_no_search():
    model = pruned_mlp()
    for layer in wrappers(model):
        layer.trainable = False
    with pytest.raises(ValueError, match="must have pruned kernels that are trained"):
        fit(model, smart_tf.SmartPruningCallback(search_epochs=2))
