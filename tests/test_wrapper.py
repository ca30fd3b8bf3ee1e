"""The mathematics of the masks, as layers compute it."""

import contextlib
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.testing import TestCase

import smart_tf
from smart_tf import methods, topk
from smart_tf.search import SEARCHING
from tests.references import (
    assert_same,
    jacobian,
    linear,
    output,
    soft_topk,
    temperature_at,
)

INITIAL, FINAL, END = 2.0, 0.05, 20
UNSCALED = smart_tf.methods.Smart(keep_scale=False)


def exposed(structure="4x3", sparsity=0.6, widths=(6, 5), method=UNSCALED):
    """A model that puts out its masked kernels, when it is fed an identity matrix."""
    keras.utils.set_random_seed(3)
    x = keras.Input((7,))
    outputs = [keras.layers.Dense(w, use_bias=False, name=f"d{w}")(x) for w in widths]
    return smart_tf.prune(keras.Model(x, outputs), sparsity, structure, method)


def searching(model, at=0):
    """Drives a model into its search, to an update number."""
    schedule = smart_tf.TemperatureSchedule(0, END, INITIAL, FINAL)
    pruner = smart_tf.Pruner(model, schedule)
    pruner.start()
    for layer in pruner.layers:
        layer.pruning_step.assign(at)
    return pruner


def grids(pruner):
    return [m.logits.numpy().astype(np.float64) for m in pruner.ranking.masks]


def scatter_logits(pruner, seed=0):
    rng = np.random.default_rng(seed)
    for mask in pruner.ranking.masks:
        mask.logits.assign(rng.normal(size=mask.logits.shape).astype("float32"))


def tiles(shape, block):
    """Index of the block of each weight of a `(inputs, outputs)` kernel."""
    i, o = np.indices(shape)
    return (i // block[1]) * -(-shape[1] // block[0]) + o // block[0]


def pooled_masks(pruner, block, temperature):
    """Float64: the soft masks of all kernels from one ranking, spread over weights."""
    logits = grids(pruner)
    shapes = [m.weight.variable.shape for m in pruner.ranking.masks]
    index = [tiles(shape, block) for shape in shapes]
    costs = [np.bincount(i.ravel()) for i in index]
    budget = (1 - pruner.layers[0].sparsity) * sum(map(np.sum, costs))
    flat = np.concatenate([logit.ravel() for logit in logits])
    costs = np.concatenate(costs).astype(np.float64)
    f = soft_topk(flat, budget, temperature, costs)
    ends = np.cumsum([logit.size for logit in logits])[:-1]
    parts = np.split(f, ends)
    return [p[i] for p, i in zip(parts, index, strict=True)], f, costs, budget


@pytest.mark.parametrize(
    "step,traced", [(0, False), (5, False), (20, False), (13, True)]
)
def test_masks_of_all_layers_share_one_budget(step, traced):
    model = exposed()
    pruner = searching(model, step)
    scatter_logits(pruner)
    call = tf.function(model) if traced else model
    outputs = call(tf.eye(7), training=True)
    raw = [m.weight.variable.numpy() for m in pruner.ranking.masks]
    measured = [o.numpy() / k for o, k in zip(outputs, raw, strict=True)]
    temperature = temperature_at(step, END, INITIAL, FINAL)
    expected, _, _, budget = pooled_masks(pruner, (4, 3), temperature)
    for got, want in zip(measured, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)
    assert sum(map(np.sum, measured)) == pytest.approx(budget, rel=1e-4)


def test_masks_sum_to_the_budget_at_each_step_of_a_training():
    model = exposed(sparsity=0.7)
    pruner = searching(model, END - 8)
    pruner.step(END - 8)
    optimizer = pruner.wrap_optimizer(keras.optimizers.Adam(0.05))
    budget = 0.3 * 7 * 11
    for _ in range(8):
        raw = [m.weight.variable.numpy() for m in pruner.ranking.masks]
        with tf.GradientTape() as tape:
            outputs = model(tf.eye(7), training=True)
            loss = sum(tf.reduce_sum((o - 1.0) ** 2) for o in outputs)
        total = sum((o / k).numpy().sum() for o, k in zip(outputs, raw, strict=True))
        assert total == pytest.approx(budget, rel=1e-4)
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        pruner.step()
    assert pruner.is_frozen


def trained_once(model):
    """A step of the search, with a gradient of its own for each masked weight.

    Returns:
        The pruner, what flows back into each kernel, the masked kernels, and the
        gradients of all logits and then of all kernels; lists of arrays.
    """
    pruner = searching(model, 9)
    scatter_logits(pruner, seed=4)
    rng = np.random.default_rng(5)
    upstream = [rng.normal(size=(7, w)) for w in (6, 5)]
    masks = pruner.ranking.masks
    with tf.GradientTape() as tape:
        outputs = model(tf.eye(7), training=True)
        loss = sum(tf.reduce_sum(o * u) for o, u in zip(outputs, upstream, strict=True))
    variables = [m.logits for m in masks] + [m.weight.variable for m in masks]
    gradients = [g.numpy() for g in tape.gradient(loss, variables)]
    return pruner, upstream, [o.numpy() for o in outputs], gradients


def test_gradients_are_those_of_eq_6_and_prop_2_2_across_layers():
    pruner, upstream, _, gradients = trained_once(exposed())
    masks = pruner.ranking.masks
    temperature = temperature_at(9, END, INITIAL, FINAL)
    expected, f, costs, _ = pooled_masks(pruner, (4, 3), temperature)
    raw = [m.weight.variable.numpy().astype(np.float64) for m in masks]
    by_block = np.concatenate(
        [
            np.bincount(tiles(k.shape, (4, 3)).ravel(), (k * u).ravel())
            for k, u in zip(raw, upstream, strict=True)
        ]
    )
    dm = jacobian(f, temperature, costs).T @ by_block
    got = np.concatenate([g.ravel() for g in gradients[:2]])
    assert np.abs(dm).max() > 1e-2
    np.testing.assert_allclose(got, dm, atol=1e-4 * np.abs(dm).max())
    for g, mask, u in zip(gradients[2:], expected, upstream, strict=True):
        np.testing.assert_allclose(g, mask * u, atol=1e-4)


def test_gradients_flow_through_stacked_layers():
    """One layer feeds the other: the golden check through a product of masks."""
    keras.utils.set_random_seed(3)
    inner = [keras.layers.Dense(w, use_bias=False) for w in (5, 4)]
    plain = keras.Sequential([keras.Input((6,)), *inner])
    model = smart_tf.prune(plain, 0.5, "unstructured", UNSCALED)
    pruner = searching(model, 7)
    scatter_logits(pruner, 1)
    x = np.random.default_rng(2).normal(size=(3, 6))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x.astype("float32"), training=True) ** 2)
    masks = pruner.ranking.masks
    got = tape.gradient(loss, [m.logits for m in masks])

    temperature = temperature_at(7, END, INITIAL, FINAL)
    (f1, f2), f, _, _ = pooled_masks(pruner, (1, 1), temperature)
    w1, w2 = (m.weight.variable.numpy().astype(np.float64) for m in masks)
    y = x @ (w1 * f1) @ (w2 * f2)
    d1 = w1 * (x.T @ (2 * y @ (w2 * f2).T))
    d2 = w2 * ((x @ (w1 * f1)).T @ (2 * y))
    dm = jacobian(f, temperature).T @ np.concatenate([d1.ravel(), d2.ravel()])
    got = np.concatenate([g.numpy().ravel() for g in got])
    np.testing.assert_allclose(got, dm, atol=2e-4 * np.abs(dm).max())


def test_soft_masks_keep_the_scale_of_each_kernel():
    model = exposed("unstructured", method="smart")
    pruner, upstream, trained, gradients = trained_once(model)
    masks = pruner.ranking.masks
    temperature = temperature_at(9, END, INITIAL, FINAL)
    shares, f, costs, _ = pooled_masks(pruner, (1, 1), temperature)
    raw = [m.weight.variable.numpy().astype(np.float64) for m in masks]
    # What brings `c w f` closest to `w`, where all weights are alike.
    c = [share.sum() / (share**2).sum() for share in shares]
    assert min(c) > 1.05 and abs(c[0] - c[1]) > 1e-3
    evaluated = [o.numpy() for o in model(tf.eye(7), training=False)]
    for k, w in enumerate(raw):
        np.testing.assert_allclose(trained[k], c[k] * w * shares[k], atol=1e-4)
        np.testing.assert_allclose(evaluated[k], trained[k], atol=1e-5)
    by_block = [c[k] * (raw[k] * upstream[k]).ravel() for k in range(2)]
    dm = jacobian(f, temperature, costs).T @ np.concatenate(by_block)
    got = np.concatenate([g.ravel() for g in gradients[:2]])
    np.testing.assert_allclose(got, dm, atol=2e-4 * np.abs(dm).max())


@pytest.mark.parametrize("structure", ["4x3", "unstructured"])
def test_a_search_begins_with_the_network_that_it_was_given(structure):
    equal = smart_tf.methods.Smart(initial_spread=0.0)
    model = exposed(structure, 0.6, method=equal)
    dense = [m.weight.variable.numpy() for m in searching(model).ranking.masks]
    for found, kernel in zip(model(tf.eye(7), training=True), dense, strict=True):
        np.testing.assert_allclose(found.numpy(), kernel, rtol=1e-3)


@pytest.mark.parametrize("structure", [smart_tf.Channel(coupled=False), "2:4"])
def test_masks_of_channels_and_groups_are_left_as_they_are(structure):
    both = []
    for method in ("smart", UNSCALED):
        keras.utils.set_random_seed(3)
        dense = keras.layers.Dense(8, use_bias=False)
        dense.build((None, 8))
        wrapper = smart_tf.prune(dense, 0.5, structure, method)
        searching(wrapper, 9)
        both.append(wrapper(tf.eye(8), training=True).numpy())
    np.testing.assert_array_equal(*both)


def test_what_is_reported_of_soft_masks_is_their_share():
    model = exposed("unstructured", method="smart")
    pruner = searching(model, 9)
    model(tf.eye(7), training=True)
    assert 0 <= pruner.metrics()["soft_sparsity"] <= 1
    assert max(mask.max() for mask in pruner.ranking.soft_masks()) <= 1


class CountingSolver:
    def __init__(self, monkeypatch):
        self.calls = 0
        self._threshold = topk.threshold
        monkeypatch.setattr(topk, "threshold", self)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self._threshold(*args, **kwargs)


def branches():
    """Six layers; one of them shared by two branches that are added."""
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    shared = keras.layers.Dense(6, name="shared")
    layers = [keras.layers.Dense(6, name=f"own{i}") for i in range(4)]
    y = layers[1](shared(layers[0](a))) + layers[3](shared(layers[2](b)))
    return keras.Model([a, b], keras.layers.Dense(3, name="head")(y))


def test_threshold_of_a_sequential_train_step_is_solved_once(monkeypatch):
    counting = CountingSolver(monkeypatch)
    layers = [keras.layers.Dense(6) for _ in range(5)]
    model = smart_tf.prune(keras.Sequential([keras.Input((6,)), *layers]), 0.5, "2x2")
    pruner = searching(model)
    optimizer = pruner.wrap_optimizer(keras.optimizers.SGD(0.1))

    @tf.function
    def train_step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(x, training=True) ** 2)
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    optimizer.build(model.trainable_variables)
    train_step.get_concrete_function(tf.TensorSpec((2, 6)))
    assert counting.calls == 1


def test_a_layer_shared_by_two_branches_does_not_multiply_the_solves(monkeypatch):
    counting = CountingSolver(monkeypatch)
    model = smart_tf.prune(branches(), 0.5, "2x2")
    searching(model)
    tf.function(lambda x: model([x, x], training=True)).get_concrete_function(
        tf.TensorSpec((2, 6))
    )
    assert counting.calls == 1


def test_a_shared_layer_gets_the_gradient_of_both_branches_and_one_step():
    keras.utils.set_random_seed(0)
    model = smart_tf.prune(branches(), 0.5, "2x2", UNSCALED)
    pruner = searching(model, 3)
    optimizer = pruner.wrap_optimizer(keras.optimizers.SGD(0.0))
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(4, 6)).astype("float32") for _ in range(2)]

    def loss_and_gradient():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True) ** 2)
        return loss, tape.gradient(loss, model.trainable_variables)

    _, gradients = loss_and_gradient()
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    assert {int(layer.pruning_step) for layer in pruner.layers} == {4}

    _, gradients = loss_and_gradient()
    (mask,) = model.get_layer("shared").weight_masks
    index = [v is mask.logits for v in model.trainable_variables].index(True)
    logits, change = mask.logits.numpy(), 1e-2
    numeric = np.zeros_like(logits)
    for at in np.ndindex(*logits.shape):
        values = []
        for sign in (1, -1):
            moved = logits.copy()
            moved[at] += sign * change
            mask.logits.assign(moved)
            values.append(float(loss_and_gradient()[0]))
        numeric[at] = (values[0] - values[1]) / (2 * change)
    got = gradients[index].numpy()
    np.testing.assert_allclose(got, numeric, atol=0.02 * np.abs(numeric).max())


def test_two_forward_passes_under_two_tapes_both_get_full_gradients():
    model = exposed()
    pruner = searching(model, 6)
    scatter_logits(pruner)
    logits = [m.logits for m in pruner.ranking.masks]

    def gradient(scale):
        with tf.GradientTape() as tape:
            outputs = model(tf.eye(7), training=True)
            loss = sum(tf.reduce_sum(scale * o**2) for o in outputs)
        return tape.gradient(loss, logits)

    first, second = tf.function(lambda: (gradient(1.0), gradient(3.0)))()
    alone = gradient(1.0)
    for a, b, c in zip(first, second, alone, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(b, 3 * c, rtol=1e-4, atol=1e-6)


def test_two_nested_tapes_in_eager_mode_both_get_full_gradients():
    model = exposed()
    pruner = searching(model, 6)
    scatter_logits(pruner)
    logits = [m.logits for m in pruner.ranking.masks]
    with contextlib.ExitStack() as stack:
        tapes = [stack.enter_context(tf.GradientTape()) for _ in range(2)]
        losses = [
            sum(tf.reduce_sum(o**2) for o in model(tf.eye(7), training=True))
            for _ in tapes
        ]
    one, two = (t.gradient(v, logits) for t, v in zip(tapes, losses, strict=True))
    for a, b in zip(one, two, strict=True):
        assert np.abs(a).max() > 1e-3
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_inference_during_the_search_uses_the_masks_of_the_last_training_step():
    model = exposed()
    pruner = searching(model, 8)
    scatter_logits(pruner)
    trained = model(tf.eye(7), training=True)
    seen = model(tf.eye(7), training=False)
    assert pruner.phase == SEARCHING
    assert_same([t.numpy() for t in trained], [s.numpy() for s in seen], atol=1e-6)


def test_before_the_search_the_layer_is_untouched():
    keras.utils.set_random_seed(2)
    plain = keras.Sequential([keras.Input((7,)), keras.layers.Dense(6)])
    x = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")
    before = output(plain, x)
    pruned = smart_tf.prune(plain, 0.5, "2x2")
    assert_same([before], [output(pruned, x)])
    assert_same([before], [pruned(x, training=True).numpy()])


# ---- N:M


def kept_of_groups(kernel, axis, of):
    """Counts what is kept in consecutive groups along an axis; ragged tail too."""
    lines = np.moveaxis(kernel, axis, -1)
    length = lines.shape[-1]
    return [(lines[..., at : at + of] != 0).sum(axis=-1) for at in range(0, length, of)]


@pytest.mark.parametrize("keep,of", [(2, 4), (1, 4)])
def test_n_of_m_are_kept_along_the_input_axis(keep, of):
    x = keras.Input((6, 6, 8))
    y = keras.layers.Conv2D(5, 3, name="conv")(x)
    y = keras.layers.Reshape((16, 5))(y)
    y = keras.layers.Dense(8, name="up")(y)
    y = keras.layers.MultiHeadAttention(2, 4, name="attention")(y, y)
    y = keras.layers.Dense(3, name="down")(keras.layers.Flatten()(y))
    model = smart_tf.strip_pruning(
        smart_tf.prune(keras.Model(x, y), None, f"{keep}:{of}")
    )
    assert (np.stack(kept_of_groups(get(model, "conv/kernel"), 2, of)) == keep).all()
    assert (np.stack(kept_of_groups(get(model, "down/kernel"), 0, of)) == keep).all()
    for name in ("query", "key", "value"):
        kernel = get(model, f"attention/{name}/kernel")  # (inputs, heads, key)
        assert (np.stack(kept_of_groups(kernel, 0, of)) == keep).all()
    kernel = get(model, "attention/attention_output/kernel")  # (heads, key, outputs)
    merged = kernel.reshape(-1, kernel.shape[-1])
    assert (np.stack(kept_of_groups(merged, 0, of)) == keep).all()
    full, tail = kept_of_groups(get(model, "up/kernel"), 0, of)
    assert (full == keep).all() and (tail == 1).all()  # 5 inputs: 4 and 1


def get(model, path):
    (variable,) = [v for v in model.variables if v.path.endswith(path)]
    return variable.numpy()


def test_n_of_m_keeps_the_largest_of_each_group():
    dense = keras.layers.Dense(2, use_bias=False)
    model = keras.Sequential([keras.Input((6,)), dense])
    kernel = np.array(
        [[1, -9], [-4, 2], [3, 3], [2, 8], [5, 0.1], [-6, 0.2]], "float32"
    )
    dense.kernel.assign(kernel)
    smart_tf.strip_pruning(smart_tf.prune(model, structure="2:4"))
    expected = [[0, -9], [-4, 0], [3, 0], [0, 8], [0, 0], [-6, 0.2]]
    np.testing.assert_array_equal(dense.kernel.numpy(), np.array(expected, "float32"))


@pytest.mark.parametrize("group_scale", [None, 2.0], ids=["as_they_are", "scaled"])
def test_n_of_m_masks_are_the_soft_top_n_of_the_magnitudes(group_scale):
    """Eq. 14: no logits, N in each group, and the weights get both gradients."""
    method = methods.Smart(group_scale=group_scale)
    model = exposed("2:4", None, widths=(6,), method=method)
    pruner = searching(model, 10)
    (mask,) = pruner.ranking.masks
    assert mask.logits is None
    raw = mask.weight.variable.numpy().astype(np.float64)
    with tf.GradientTape() as tape:
        (masked,) = tf.nest.flatten(model(tf.eye(7), training=True))
        loss = tf.reduce_sum(masked)
    got = tape.gradient(loss, mask.weight.variable).numpy()
    temperature = temperature_at(10, END, INITIAL, FINAL)
    scale = group_scale / np.sqrt((raw**2).mean()) if group_scale else 1.0
    for column in range(6):
        for rows, keep in ((slice(0, 4), 2), (slice(4, 7), 2)):
            w = raw[rows, column]
            f = soft_topk(np.abs(w) * scale, keep, temperature)
            np.testing.assert_allclose(masked[rows, column], w * f, atol=1e-5)
            inner = jacobian(f, temperature).T @ w * np.sign(w) * scale
            np.testing.assert_allclose(got[rows, column], f + inner, atol=1e-4)


@dataclasses.dataclass(frozen=True)
class ScoresAsTensor(methods.Method):
    def final_scores(self, weight_mask):
        kernel = tf.convert_to_tensor(weight_mask.weight.variable)
        return weight_mask.structure.reduce_sum(tf.abs(kernel), weight_mask.layout)


def test_scores_of_a_method_of_ones_own_may_be_a_tensor():
    kernel = np.arange(1.0, 17.0, dtype="float32").reshape(4, 4)
    model = smart_tf.prune(linear(kernel), 0.5, "4x1", ScoresAsTensor())
    stripped = smart_tf.strip_pruning(model)
    kept = stripped.layers[-1].kernel.numpy() != 0
    np.testing.assert_array_equal(kept, [[False] * 4] * 2 + [[True] * 4] * 2)


# ---- As a Keras layer


class PrunableLayerAsLayer(TestCase):
    """Keras' own checks of a layer: building, config, saving, training, dtypes."""

    def check(self, layer, structure, input_shape, output_shape, **kwargs):
        self.run_layer_test(
            smart_tf.PrunableLayer,
            init_kwargs={"layer": layer, "structure": structure, "sparsity": 0.5},
            input_shape=input_shape,
            expected_output_shape=output_shape,
            custom_objects={"PrunableLayer": smart_tf.PrunableLayer},
            **kwargs,
        )

    def test_dense(self):
        # Logits and mask, the state of the search, the number of updates.
        self.check(
            keras.layers.Dense(6),
            "2x2",
            (3, 4),
            (3, 6),
            expected_num_trainable_weights=3,
            expected_num_non_trainable_weights=3,
        )

    def test_convolution(self):
        self.check(keras.layers.Conv2D(4, 3), "channel", (2, 6, 6, 3), (2, 4, 4, 4))

    def test_recurrent(self):
        self.check(keras.layers.GRU(4), "2x2", (2, 5, 3), (2, 4), supports_masking=True)


def test_the_wrapper_goes_by_the_name_and_attributes_of_its_layer():
    layer = smart_tf.PrunableLayer(keras.layers.Dense(5, name="mine"), "2x2", 0.5)
    assert layer.name == "mine"
    assert layer.units == 5
    with pytest.raises(AttributeError):
        _ = layer.no_such_thing
