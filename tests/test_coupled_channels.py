"""Searching for channels that run through several layers, and cutting them out."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import smart_tf
from smart_tf import Channel

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 8, 8, 3)).astype("float32")
Y = RNG.integers(0, 4, 32)
FINE = Channel(round_to=1)


def network(seed=0):
    """Stem of 16, a residual block of 16 -> 12 -> 16, and a head of 4.

    MACs by hand, at 8x8 positions: 64 * (27 s + 9 s h + 9 h s) + 4 s for `s` channels
    in the stem and `h` inside of the block.
    """
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="stem_norm")(x)
    x = layers.ReLU(name="stem_act")(x)
    y = layers.Conv2D(12, 3, padding="same", use_bias=False, name="down")(x)
    y = layers.BatchNormalization(name="down_norm")(y)
    y = layers.ReLU(name="down_act")(y)
    y = layers.Conv2D(16, 3, padding="same", name="up")(y)
    x = layers.Add(name="add")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(4, name="head")(x), name="network")


def macs(stem, inside):
    return 64 * (27 * stem + 18 * stem * inside) + 4 * stem


def weights(stem, inside):
    return 27 * stem + 18 * stem * inside + 4 * stem


def widths(model):
    return model.get_layer("stem").kernel.shape[-1], model.get_layer(
        "down"
    ).kernel.shape[-1]


def trained(model=None, epochs=2, search_epochs=1, compile_options=None, **kwargs):
    kwargs = {"sparsity": 0.5, "structure": FINE, "budget": "macs"} | kwargs
    pruned = smart_tf.prune(model or network(), **kwargs)
    pruned.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **(compile_options or {}),
    )
    callback = smart_tf.SmartPruningCallback(search_epochs=search_epochs)
    fit(pruned, epochs, [callback])
    return pruned


def fit(model, epochs, callbacks, **kwargs):
    options = {"batch_size": 8, "verbose": 0, "shuffle": False} | kwargs
    model.fit(X, Y, epochs=epochs, callbacks=callbacks, **options)


def lead(model):
    """The wrapper that holds the logits of all channels."""
    found = [k for k in model.layers if getattr(k, "shared_logits", None) is not None]
    assert len(found) == 1
    return found[0]


def assert_same_outputs(one, other, tolerance=1e-5):
    expected, got = one.predict(X, verbose=0), other.predict(X, verbose=0)
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("budget", ["macs", "weights", "params"])
def test_what_is_asked_is_what_is_cut_to_one_channel(budget, sparsity):
    pruned = trained(budget=budget, sparsity=sparsity)
    small = smart_tf.shrink(smart_tf.strip_pruning(pruned))
    stem, inside = widths(small)

    def cost(stem, inside):
        if budget == "params":
            norms_and_biases = 4 * stem + 4 * inside + stem + 4
            return weights(stem, inside) + norms_and_biases
        return {"macs": macs, "weights": weights}[budget](stem, inside)

    if budget == "params":
        assert small.count_params() == cost(stem, inside)
    limit = (1 - sparsity) * cost(16, 12)
    assert cost(stem, inside) <= limit
    # One channel more in either group would be too much, wherever there is one.
    assert stem == 16 or cost(stem + 1, inside) > limit
    assert inside == 12 or cost(stem, inside + 1) > limit


def test_soft_masks_spend_the_budget():
    model = smart_tf.prune(network(), 0.5, FINE, budget="macs")
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 100))
    pruner.start()
    for _ in range(6):  # Newton steps towards a cost that is not linear
        model(X, training=True)
    state = lead(model).search_state.numpy().astype(np.float64)
    logits = lead(model).shared_logits.numpy().astype(np.float64)
    shares = 1 / (1 + np.exp(-((logits - state[2]) / state[1] - state[3])))
    by_size = {16: [], 12: []}
    for group in smart_tf.channels.find_groups(network()):
        by_size[len(group.channels)] = shares[group.channels].sum()
    spent = macs(by_size[16], by_size[12])
    np.testing.assert_allclose(spent, 0.5 * macs(16, 12), rtol=1e-4)


def test_settled_widths_are_whole_units_that_the_soft_masks_keep():
    model = smart_tf.prune(network(), 0.4, Channel(round_to=4), budget="macs")
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 100, 0.05, 0.04))
    pruner.start()
    for _ in range(8):
        model(X, training=True)
    before = lead(model).shared_logits.numpy()
    shares = pruner.ranking.decisions(pruner.ranking.soft_masks())[0]
    groups = [g.channels for g in smart_tf.channels.find_groups(network())]
    assert any(abs(shares[g].sum() % 4 - 2) < 1.9 for g in groups)  # no whole unit
    pruner.ranking.settle_widths()
    after = lead(model).shared_logits.numpy()
    for _ in range(8):
        pruner.ranking.search.step_done()
        model(X, training=True)
    shares = pruner.ranking.decisions(pruner.ranking.soft_masks())[0]
    kept = pruner.ranking.decisions(pruner.ranking.hard_masks())[0]
    for g in groups:
        assert kept[g].sum() % 4 == 0
        np.testing.assert_allclose(shares[g].sum(), kept[g].sum(), atol=0.05)
        np.testing.assert_allclose(np.diff(after[g]), np.diff(before[g]), atol=1e-5)
    copies = pruner.ranking.logits_of(pruner.ranking.coupled[0])
    assert set(copies) <= set(after)


@pytest.mark.parametrize("method", ["smart", "paper"])
def test_a_search_settles_its_widths_and_the_next_one_begins_anew(method):
    structure = Channel(round_to=4)
    model = smart_tf.prune(network(), 0.4, structure, method, budget="macs")
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 8))
    pruner.start()
    spend = []
    for _ in range(7):
        model(X, training=True)
        for layer in pruner.layers:
            layer.pruning_step.assign_add(1)
        pruner.step()
        spend.append(float(lead(model).search_state.numpy()[-1]))
    assert spend[:3] == [1, 1, 1]
    settled = [0.5 < share < 1 for share in spend[3:]]
    assert all(settled) if method == "smart" else not any(settled)
    pruner.ranking.initialise_logits()
    assert float(lead(model).search_state.numpy()[-1]) == 1


def test_the_masks_of_all_layers_of_a_group_follow_one_logit():
    model = smart_tf.prune(network(), 0.5, FINE, budget="macs")
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 100))
    pruner.start()
    model(X, training=True)
    before = {m.weight.name: m.logits.numpy() for m in pruner.ranking.masks}
    stem = before["stem_norm/gamma"].ravel()
    np.testing.assert_array_equal(before["up/kernel"].ravel(), stem)
    np.testing.assert_array_equal(before["up/bias"].ravel(), stem)
    assert before["down_norm/beta"].shape == (12,)


def test_a_masked_channel_is_exactly_zero_everywhere():
    final = smart_tf.strip_pruning(trained(sparsity=0.8))
    dead = ~final.get_layer("stem_norm").gamma.numpy().astype(bool)
    assert 0 < dead.sum() < 16
    for layer, name, axis in (
        ("stem", "kernel", -1),
        ("stem_norm", "beta", 0),
        ("up", "kernel", -1),
        ("up", "bias", 0),
    ):
        value = np.moveaxis(getattr(final.get_layer(layer), name).numpy(), axis, 0)
        np.testing.assert_array_equal(value[dead], 0.0)
    before = final.predict(X, verbose=0)
    head = final.get_layer("head").kernel
    head.assign(np.where(dead[:, None], 1e6, head.numpy()))
    np.testing.assert_array_equal(final.predict(X, verbose=0), before)


def test_the_gradient_of_the_shared_logits_is_that_of_the_loss():
    model = smart_tf.prune(network(), 0.5, FINE, budget="macs")
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 10_000, 1.0, 0.9))
    pruner.start()
    for _ in range(8):
        model(X, training=True)
    logits = lead(model).shared_logits
    start, states = logits.numpy(), [k.search_state.numpy() for k in pruner.layers]

    def loss():
        for layer, state in zip(pruner.layers, states, strict=True):
            layer.search_state.assign(state)
        pruner.ranking.search.step_done()
        outputs = model(X, training=True)
        return tf.reduce_mean(tf.square(outputs - 1.0)) * 100

    with tf.GradientTape() as tape:
        value = loss()
    gradient = tf.convert_to_tensor(tape.gradient(value, logits.value)).numpy()
    direction = np.random.default_rng(1).normal(size=start.shape).astype("float32")
    ends = []
    for sign in (1, -1):
        logits.assign(start + sign * 1e-2 * direction)
        ends.append(float(loss()))
    slope = (ends[0] - ends[1]) / 2e-2
    np.testing.assert_allclose(gradient @ direction, slope, rtol=0.05, atol=1e-3)


def test_shrinking_changes_no_output():
    pruned = trained()
    final = smart_tf.strip_pruning(pruned)
    small = smart_tf.shrink(final)
    assert small.count_params() < 0.7 * final.count_params()
    assert_same_outputs(pruned, final, 0.0)
    assert_same_outputs(final, small)


def test_a_search_that_is_saved_goes_on_as_if_never_stopped(tmp_path):
    def model():
        pruned = smart_tf.prune(network(), 0.5, FINE, budget="macs")
        pruned.compile(
            keras.optimizers.Adam(1e-2),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return pruned

    def callback():
        schedule = smart_tf.TemperatureSchedule(2, 10)
        return smart_tf.SmartPruningCallback(schedule=schedule)

    whole = model()
    fit(whole, 4, [callback()])
    half = model()
    with pytest.warns(UserWarning, match="in the middle of the search"):
        fit(half, 4, [callback(), StopAfterTwoEpochs()])
    half.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    assert_same_outputs(half, loaded, 0.0)
    fit(loaded, 4, [callback()], initial_epoch=2)
    for one, other in zip(whole.get_weights(), loaded.get_weights(), strict=True):
        # Threads add in any order, and Adam's first steps of 1e-2 make the most of it:
        # anything that was not restored would show in steps of that size.
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["awg", "pas"])
def test_rivals_cut_what_is_asked_too(method):
    pruned = trained(method=method)
    assert smart_tf.report(pruned).phase == "frozen"
    final = smart_tf.strip_pruning(pruned)
    assert_same_outputs(pruned, final, 0.0)
    small = smart_tf.shrink(final)
    assert_same_outputs(final, small)
    stem, inside = widths(small)
    limit = 0.5 * macs(16, 12)
    assert macs(stem, inside) <= limit
    assert macs(stem + 1, inside) > limit or macs(stem, inside + 1) > limit


class StopAfterTwoEpochs(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


@pytest.mark.parametrize(
    "options",
    [{"jit_compile": True}, {"steps_per_execution": 2}],
    ids=["XLA", "steps_per_execution"],
)
def test_it_trains_as_keras_is_told_to(options):
    pruned = trained(compile_options=options)
    assert smart_tf.report(pruned).phase == "frozen"
    small = smart_tf.shrink(smart_tf.strip_pruning(pruned))
    assert macs(*widths(small)) <= 0.5 * macs(16, 12)


def test_widths_are_round():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(64, 3, activation="relu", name="stem")(image)
    x = layers.Conv2D(24, 3, activation="relu", name="down")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(4)(x))
    small = smart_tf.shrink(
        smart_tf.strip_pruning(smart_tf.prune(model, 0.6, "channel", budget="macs"))
    )
    stem, down = widths(small)
    assert (stem, down) != (64, 24)
    assert stem % 8 == 0
    assert down % 8 == 0


def test_heads_of_attention_go():
    keras.utils.set_random_seed(0)
    tokens = keras.Input((6, 16))
    x = layers.LayerNormalization()(tokens)
    attention = layers.MultiHeadAttention(8, 4, name="attention")
    x = layers.Add()([tokens, attention(x, x)])
    outputs = layers.Dense(4)(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(tokens, outputs)
    final = smart_tf.strip_pruning(smart_tf.prune(model, 0.5, "channel"))
    small = smart_tf.shrink(final)
    assert small.get_layer("attention").num_heads in (3, 4)
    data = RNG.normal(size=(4, 6, 16)).astype("float32")
    np.testing.assert_allclose(
        small.predict(data, verbose=0), final.predict(data, verbose=0), atol=1e-5
    )


def test_costs_of_ones_own():
    def cost(group):
        return 1000.0 if len(group.channels) == 16 else 1.0

    pruned = smart_tf.prune(network(), 0.5, FINE, budget=cost)
    stem, inside = widths(smart_tf.shrink(smart_tf.strip_pruning(pruned)))
    assert stem <= 8
    for bad in (0.0, math.nan, math.inf, None, "dear", np.ones(5)):
        with pytest.raises(ValueError, match="`budget` must give a positive cost"):
            smart_tf.prune(network(), 0.5, FINE, budget=lambda group, bad=bad: bad)


def test_whether_there_is_a_floor_is_no_floor():
    with pytest.raises(TypeError, match="`max_layer_sparsity` must be a float"):
        smart_tf.prune(network(), 0.5, FINE, max_layer_sparsity=True)


def test_layers_that_shall_stay_stay():
    model = network()
    model.get_layer("down").trainable = False
    pruned = smart_tf.prune(model, 0.3, FINE, budget="macs")
    assert smart_tf.report(pruned).skipped["down/kernel"] == "not trainable"
    stem, inside = widths(smart_tf.shrink(smart_tf.strip_pruning(pruned)))
    assert inside == 12 and stem < 16
    pruned = smart_tf.prune(network(), 0.3, FINE, filters="down$", budget="macs")
    reasons = smart_tf.report(pruned).skipped
    assert reasons["stem/kernel"] == "left out by `filters`"
    stem, inside = widths(smart_tf.shrink(smart_tf.strip_pruning(pruned)))
    assert stem == 16 and inside < 12


def test_the_plain_form_masks_kernels_alone():
    pruned = smart_tf.prune(network(), 0.5, Channel(coupled=False), "paper")
    final = smart_tf.strip_pruning(pruned)
    assert np.all(final.get_layer("down_norm").gamma.numpy() == 1.0)
    assert smart_tf.report(final).sparsity >= 0.5


@pytest.mark.parametrize("budget", ["flops", 3])
def test_an_unknown_budget_is_refused(budget):
    with pytest.raises(ValueError, match="`budget` must be"):
        smart_tf.prune(network(), 0.5, "channel", budget=budget)


def test_a_budget_below_the_floors_is_refused():
    with pytest.raises(ValueError, match="budget cannot be met"):
        smart_tf.prune(network(), 0.995, FINE, max_layer_sparsity=0.995)


def test_a_part_of_a_pruned_model_cannot_be_searched():
    pruned = smart_tf.prune(network(), 0.5, FINE)
    part = keras.Sequential([keras.Input((8, 8, 16)), pruned.get_layer("up")])
    with pytest.raises(ValueError, match="whole model"):
        smart_tf.Pruner(part)


def test_a_subclassed_model_has_no_graph():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(4)

        def call(self, inputs):
            return self.dense(inputs)

    model = Subclassed()
    model(X[:, 0, 0])
    with pytest.raises(ValueError, match="coupled=False"):
        smart_tf.prune(model, 0.5, "channel")
    assert type(model.dense) is layers.Dense


def test_only_graphs_of_layers_are_compared():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.only = layers.Dense(2)

        def call(self, x):
            return self.only(x)

    model = Own()
    model(np.ones((1, 3)))
    with pytest.raises(ValueError, match="Functional or Sequential"):
        smart_tf.compare(model, model, files=False)


def test_a_comparison_numbers_kernels_of_equal_names():
    def part(name):
        x = keras.Input((8,))
        return keras.Model(x, layers.Dense(8, name="fc")(x), name=name)

    x = keras.Input((8,))
    model = keras.Model(x, layers.Dense(3, name="out")(part("b")(part("a")(x))))
    assert smart_tf.compare(model, model, files=False).widths == {
        "fc/kernel": (8, 8),
        "fc/kernel_1": (8, 8),
        "out/kernel": (3, 3),
    }


def test_a_network_beside_what_is_left_of_it():
    model = network()
    copy = keras.models.clone_model(model)
    pruned = smart_tf.prune(copy, 0.5, FINE, budget="macs")
    small = smart_tf.shrink(smart_tf.strip_pruning(pruned))
    comparison = smart_tf.compare(model, small, representative_data=X)
    stem, inside = widths(small)
    assert comparison.macs == (macs(16, 12), macs(stem, inside))
    assert comparison.parameters == (model.count_params(), small.count_params())
    assert comparison.widths["down/kernel"] == (12, inside)
    for kind in ("float32", "int8"):
        before, after = comparison.files[kind]["bytes"]
        assert after < before
        assert comparison.files[kind]["latency_ratio"] > 0
    assert "multiply-accumulates" in str(comparison)
    assert comparison.plot().axes[0].get_xlabel() == "output channels"
    with pytest.raises(ValueError, match="same layers"):
        smart_tf.compare(model, keras.Sequential([keras.Input((3,)), layers.Dense(2)]))
