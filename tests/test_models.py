"""Every kind of model goes through prune, `fit` and strip."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import smart_tf
from smart_tf.flavours import is_wrapper, wrappers
from tests.references import assert_same, compiled, data, output

X, Y = data(n=32)
BATCHES = 2  # of 16


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(7)


def train(model, x=X, y=Y, loss=None, structure="4x4", sparsity=0.5, **kwargs):
    """Prunes, goes through search and fine-tuning, and checks what must hold."""
    before = [v.path for v in model.variables]
    settings = kwargs.pop("prune", {})
    pruned = smart_tf.prune(model, sparsity, structure, **settings)
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruned.compile(kwargs.pop("optimizer", "sgd"), loss, **kwargs)
    callback = smart_tf.SmartPruningCallback(search_epochs=1)
    pruned.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    report = smart_tf.report(pruned)
    assert report.phase == "frozen"
    block = max(k.weights / k.blocks for k in report.kernels)
    total = sum(k.weights for k in report.kernels)
    assert 0 <= report.sparsity - sparsity < block / total
    hard = pruned.predict(x, verbose=0)
    stripped = smart_tf.strip_pruning(pruned)
    assert not wrappers(stripped)
    assert [v.path for v in stripped.variables] == before
    zeros = smart_tf.report(stripped)
    assert {k.name: k.zeros for k in report.kernels}.items() <= {
        k.name: k.zeros for k in zeros.kernels
    }.items()
    for a, b in zip(
        tf.nest.flatten(hard),
        tf.nest.flatten(stripped.predict(x, verbose=0)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    return pruned, stripped


# ---- Graphs


def test_sequential():
    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(16, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Dense(4),
        ]
    )
    pruned, stripped = train(model)
    assert type(pruned) is type(stripped) is keras.Sequential
    assert stripped.layers == model.layers


@pytest.mark.slow
def test_several_inputs_and_outputs_with_losses_by_name():
    a, b = keras.Input((16,), name="a"), keras.Input((8,), name="b")
    joined = layers.concatenate(
        [layers.Dense(8, name="left")(a), layers.Dense(8, name="right")(b)]
    )
    outputs = {
        "kind": layers.Dense(4, name="kind")(joined),
        "size": layers.Dense(1, name="size")(joined),
    }
    model = keras.Model({"a": a, "b": b}, outputs)
    loss = {
        "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "size": "mse",
    }
    x = {"a": X, "b": X[:, :8]}
    y = {"kind": Y, "size": X[:, :1]}
    pruned, _ = train(
        model,
        x,
        y,
        loss,
        metrics={"kind": ["accuracy"]},
        loss_weights={"kind": 1.0, "size": 0.5},
    )
    assert set(pruned.output_names) == {"kind", "size"}


def test_losses_keyed_by_the_names_of_output_layers():
    x = keras.Input((16,))
    outputs = [layers.Dense(4, name="kind")(x), layers.Dense(1, name="size")(x)]
    loss = {
        "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "size": "mse",
    }
    y = {"kind": Y, "size": X[:, :1]}
    pruned, stripped = train(keras.Model(x, outputs), y=y, loss=loss)
    assert pruned.output_names == stripped.output_names == ["kind", "size"]


def test_convolutions_with_residual_operators():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(8, 3, padding="same", name="stem")(x)
    z = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(y))
    y = layers.Activation("relu")(y + z) * 0.5
    y = layers.DepthwiseConv2D(3)(y)
    y = layers.Conv2D(8, 1, strides=2)(y)
    y = layers.Dense(4)(layers.GlobalAveragePooling2D()(y))
    images = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
    train(keras.Model(x, y), images)


def test_nested_functional_and_sequential_models():
    inner = keras.Sequential(
        [keras.Input((16,)), layers.Dense(8, name="deep"), layers.ReLU()], name="inner"
    )
    z = keras.Input((8,))
    middle = keras.Model(z, layers.Dense(8)(z) + z, name="middle")
    x = keras.Input((16,))
    model = keras.Model(x, layers.Dense(4, name="head")(middle(inner(x))))
    pruned, stripped = train(model)
    assert len(wrappers(pruned)) == 3
    assert is_wrapper(pruned.get_layer("inner").get_layer("deep"))
    assert not is_wrapper(stripped.get_layer("inner").get_layer("deep"))


def test_layers_and_models_shared_between_branches_are_stepped_and_counted_once():
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8)], name="inner")
    shared = layers.Dense(8, name="shared")
    a, b = keras.Input((8,)), keras.Input((8,))
    joined = inner(shared(a)) + inner(shared(b))
    model = keras.Model([a, b], layers.Dense(4)(joined))
    pruned, stripped = train(model, [X[:, :8], X[:, 8:]])
    found = wrappers(pruned)
    assert len(found) == 3
    assert [int(w.pruning_step) for w in found] == [4, 4, 4]  # updates
    assert len(smart_tf.report(pruned).kernels) == 3
    assert len(stripped.layers) == len(model.layers)


def test_a_functional_subclass_keeps_its_class_and_train_step():
    x = keras.Input((16,))
    model = OwnTrainStep(x, layers.Dense(4)(layers.Dense(16)(x)))
    pruned, stripped = train(model)
    assert type(pruned) is type(stripped) is OwnTrainStep
    assert pruned.own_steps >= 1


class OwnTrainStep(keras.Model):
    own_steps = 0

    def train_step(self, data):
        type(self).own_steps += 1
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


# ---- Subclassed models


class Block(keras.Model):
    """Subclassed, with a Functional and a plain layer in it."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        x = keras.Input((width,))
        self.graph = keras.Model(x, layers.Dense(width, activation="relu")(x))
        self.norm = layers.BatchNormalization()

    def call(self, x, training=None):
        return self.norm(self.graph(x), training=training) + x


class Everything(keras.Model):
    """Layers in attributes, lists, dicts and tuples; losses; its own train step."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        decay = keras.regularizers.L2(1e-2)
        self.first = layers.Dense(16, kernel_regularizer=decay)
        self.rest = [layers.Dense(16), Block(16)]
        self.named = {"gate": layers.Dense(16, activation="sigmoid")}
        self.pair = (layers.Dense(8), layers.Dropout(0.3))
        self.head = layers.Dense(4)

    def call(self, x, training=None):
        y = keras.ops.relu(self.first(x))
        for layer in self.rest:
            y = layer(y)
        y = y * self.named["gate"](x)
        y = self.pair[1](self.pair[0](y), training=training)
        self.add_loss(1e-3 * keras.ops.mean(keras.ops.square(y)))
        return self.head(y)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            out = self(x, training=True)
            loss = self.compute_loss(x, y, out)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        return {"loss": loss}


def built(model, x=X):
    model(x[:2])
    return model


def test_a_subclassed_model_with_everything():
    model = built(Everything())
    statistics = model.rest[1].norm.moving_mean
    pruned, stripped = train(model)
    assert stripped is model and type(model) is Everything
    assert np.abs(statistics.numpy()).max() > 0  # BatchNormalization inside moved
    assert isinstance(model.pair, tuple)
    assert [type(layer) for layer in model.rest] == [layers.Dense, Block]


def test_each_layer_of_a_subclassed_model_is_wrapped_in_its_place():
    pruned = smart_tf.prune(built(Everything()), 0.5, "4x4")
    places = [
        pruned.first,
        pruned.rest[0],
        pruned.rest[1].graph.layers[1],
        pruned.named["gate"],
        pruned.pair[0],
        pruned.head,
    ]
    assert all(map(is_wrapper, places))
    assert len(wrappers(pruned)) == len(places)


def test_regularizers_and_added_losses_are_those_of_the_plain_model():
    model = built(Everything())
    model(X, training=False)
    plain = sorted(float(v) for v in model.losses)
    pruned = smart_tf.prune(model, 0.5, "4x4")
    pruned(X, training=False)
    np.testing.assert_allclose(
        sorted(float(v) for v in pruned.losses), plain, rtol=1e-6
    )


def test_dropout_and_seeds_move_inside_of_a_wrapper():
    layer = layers.GRU(4, dropout=0.5)
    model = smart_tf.prune(keras.Sequential([keras.Input((5, 8)), layer]), 0.5, "2x2")
    searching(model)
    x = np.ones((3, 5, 8), "float32")
    first, second = (model(x, training=True).numpy() for _ in range(2))
    assert np.abs(first - second).max() > 0


@pytest.mark.parametrize("kind", [layers.GRU, layers.LSTM])
def test_a_stateful_layer_keeps_its_state_from_call_to_call(kind):
    model = keras.Sequential(
        [keras.Input(batch_shape=(3, 5, 8)), kind(4, stateful=True)]
    )
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    pruned = smart_tf.prune(model, 0.5, "2x2")
    x = data(n=15)[0].reshape(3, 5, -1)[..., :8]
    outputs = [(plain(x).numpy(), pruned(x).numpy()) for _ in range(3)]
    for expected, found in outputs:
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(outputs[1][0] - outputs[0][0]).max() > 1e-3


def searching(model):
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 10))
    pruner.start()
    return pruner


# ---- Layers of one's own


class Composite(layers.Layer):
    """Built-in layers in a layer, that call each other, with a state of their own."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.up = layers.Dense(2 * width)
        self.inner = keras.Sequential([layers.ReLU(), layers.Dense(width)])
        self.norm = layers.BatchNormalization()

    def build(self, shape):
        self.up.build(shape)
        self.inner.build((None, 2 * self.width))
        self.norm.build(shape)

    def call(self, x, training=None):
        return self.norm(x + self.inner(self.up(x)), training=training)


class TiedHead(layers.Layer):
    """Multiplies with the embeddings of another layer."""

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding

    def call(self, x):
        return x @ keras.ops.transpose(self.embedding.embeddings)


@pytest.mark.parametrize(
    "structure,settings",
    [
        ("4x4", {}),
        ("unstructured", {"method": "magnitude"}),
        ("4x4", {"budget": lambda weight: 2.0}),
        (smart_tf.Channel(coupled=False), {}),
    ],
    ids=str,
)
def test_a_kernel_that_two_layers_hold_is_pruned_once(structure, settings):
    limit = keras.constraints.MaxNorm(0.5)
    embedding = layers.Embedding(24, 8, embeddings_constraint=limit, name="embedding")
    tokens = keras.Input((7,), dtype="int32")
    hidden = layers.Dense(8, name="hidden")(embedding(tokens))
    model = keras.Model(tokens, TiedHead(embedding, name="head")(hidden))
    assert len(smart_tf.report(model).kernels) == 2
    x = np.arange(32 * 7).reshape(32, 7) % 24
    pruned, stripped = train(model, x, x, structure=structure, prune=settings)
    assert {w.name for w in wrappers(pruned)} == {"embedding", "hidden"}
    assert list(smart_tf.report(pruned).skipped) == ["head"]
    kernels = [v for v in stripped.trainable_variables if len(v.shape) == 2]
    zeros = sum(np.sum(v.numpy() == 0) for v in kernels)
    assert zeros >= 0.5 * sum(v.numpy().size for v in kernels)
    assert embedding.embeddings.constraint is limit


class Declares(layers.Layer):
    """tfmot's protocol, without any inheritance."""

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1], 8), name="table")
        self.other = self.add_weight(shape=(8, 8), name="other")

    def call(self, x):
        return x @ self.table @ self.other

    def get_prunable_weights(self):
        return [self.table]


class Unknown(layers.Layer):
    def build(self, shape):
        self.mixing = self.add_weight(shape=(shape[-1], shape[-1]), name="mixing")

    def call(self, x):
        return x @ self.mixing


def test_composite_layers_are_pruned_in_their_depth():
    x = keras.Input((16,))
    model = keras.Model(x, layers.Dense(4)(Composite(16, name="composite")(x)))
    pruned, stripped = train(model)
    names = {k.name for k in smart_tf.report(stripped).kernels}
    assert len(names) == 3
    layer = stripped.get_layer("composite")
    assert np.abs(layer.norm.moving_mean.numpy()).max() > 0


def test_layers_that_declare_their_prunable_weights():
    x = keras.Input((16,))
    layer = Declares()
    pruned, _ = train(keras.Model(x, layers.Dense(4)(layer(x))))
    assert (layer.table.numpy() == 0).any()
    assert not (layer.other.numpy() == 0).any()


def test_layers_that_are_registered(monkeypatch):
    monkeypatch.setattr("smart_tf.prunable.declared._REGISTERED", {})
    x = keras.Input((16,))
    layer = Unknown(name="unknown")
    model = keras.Model(x, layers.Dense(4)(layer(x)))
    left_alone = smart_tf.report(smart_tf.prune(model, 0.5, "4x4")).skipped
    assert "register_prunable" in left_alone["unknown"]
    smart_tf.strip_pruning(model)
    smart_tf.register_prunable(Unknown, lambda layer: [layer.mixing])
    model = keras.models.clone_model(model)
    train(model)
    assert (model.get_layer("unknown").mixing.numpy() == 0).any()


# ---- Built-in layers with more to them


def test_attention_with_masks():
    tokens = keras.Input((6,), dtype="int32")
    y = layers.Embedding(12, 8, mask_zero=True, name="embedding")(tokens)
    y = y + layers.MultiHeadAttention(2, 4, name="attention")(
        y, y, use_causal_mask=True
    )
    y = layers.GlobalAveragePooling1D(name="pool")(y)
    model = keras.Model(tokens, layers.Dense(4)(y))
    x = np.random.default_rng(0).integers(1, 12, (32, 6)).astype("int32")
    x[:, 4:] = 0
    pruned, stripped = train(model, x)
    # What follows the mask is ignored: in the pruned and in the stripped model.
    shorter = x[:, :4]
    for m in (pruned, stripped):
        np.testing.assert_allclose(
            output(m, x), output(m, np.pad(shorter, ((0, 0), (0, 2)))), atol=1e-6
        )


@pytest.mark.parametrize("structure", ["unstructured", "4x4", "2:4"])
def test_attention_in_batches_of_unknown_size(structure):
    """The gradient of an einsum has no static shape then."""
    tokens = keras.Input((5, 8))
    y = layers.Dense(8)(tokens)
    y = y + layers.MultiHeadAttention(2, 4, name="attention")(y, y)
    outputs = layers.Dense(4)(layers.GlobalAveragePooling1D()(y))
    model = keras.Model(tokens, outputs)
    x = np.random.default_rng(0).normal(size=(30, 5, 8)).astype("float32")
    sparsity = None if ":" in structure else 0.5
    model = smart_tf.prune(model, sparsity, structure)
    model.compile("sgd", "mse", jit_compile=False)
    callback = smart_tf.SmartPruningCallback(search_epochs=1)
    model.fit(x, x[:, 0, :4], 8, epochs=2, verbose=0, callbacks=[callback])
    report = smart_tf.report(smart_tf.strip_pruning(model))
    assert report.sparsity == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    "kind",
    [layers.GRU, pytest.param(layers.LSTM, marks=pytest.mark.slow)],
    ids=["gru", "lstm"],
)
def test_bidirectional_recurrent_layers_with_a_masking_embedding(kind):
    tokens = keras.Input((5,), dtype="int32")
    y = layers.Embedding(12, 8, mask_zero=True, name="embedding")(tokens)
    y = layers.Bidirectional(kind(4), name="both")(y)
    model = keras.Model(tokens, layers.Dense(4)(y))
    x = np.random.default_rng(0).integers(1, 12, (32, 5)).astype("int32")
    x[:, 3:] = 0
    plain = output(model, x)
    pruned = smart_tf.prune(model, 0.5, "4x4", filters="both")
    assert_same([plain], [output(pruned, x)], atol=1e-6)
    searching(pruned)
    soft = pruned(x, training=True).numpy()
    # The mask reaches the wrapped layer: what is padded does not matter.
    embedding = model.get_layer("embedding").embeddings
    embedding.assign(tf.tensor_scatter_nd_update(embedding.value, [[0]], [[9.0] * 8]))
    assert_same([soft], [pruned(x, training=True).numpy()], atol=1e-6)
    train(smart_tf.strip_pruning(pruned), x)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        x = keras.Input((16,))
        y = layers.Dense(16, activation="relu")(x)
        y = layers.Dense(4, dtype="float32")(y)
        pruned, stripped = train(keras.Model(x, y))
    finally:
        keras.config.set_dtype_policy("float32")
    scaling = keras.optimizers.LossScaleOptimizer
    assert isinstance(pruned.optimizer, scaling) == (policy == "mixed_float16")
    for wrapper in wrappers(pruned):
        assert wrapper.weight_masks[0].logits.dtype == "float32"
    assert stripped.layers[1].compute_dtype == policy.removeprefix("mixed_")


# ---- Wrappers by hand


def test_unbuilt_wrappers_by_hand():
    model = keras.Sequential(
        [
            smart_tf.PrunableLayer(layers.Dense(16, activation="relu"), "4x4", 0.75),
            smart_tf.PrunableLayer(layers.Dense(8), "4x4", 0.25),
            layers.Dense(4),
        ]
    )
    model.build((None, 16))
    compiled(model)
    callback = smart_tf.SmartPruningCallback(search_epochs=1)
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    hard = output(model, X)
    stripped = smart_tf.strip_pruning(model)
    kernels = [layer.kernel.numpy() for layer in stripped.layers]
    zeros = sum((k == 0).sum() for k in kernels[:2])
    # One ranking, and one budget: a quarter of 256 weights and three of 128.
    assert 0.75 * 256 + 0.25 * 128 <= zeros < 0.75 * 256 + 0.25 * 128 + 16
    assert not (kernels[2] == 0).any()
    assert_same([hard], [output(stripped, X)], atol=1e-6)


def test_a_model_without_weights_yet_cannot_be_driven():
    layer = smart_tf.PrunableLayer(layers.Dense(4), "4x4", 0.5)
    model = compiled(keras.Sequential([layer]))
    with pytest.raises(ValueError, match="must be built.*keras.Input"):
        model.fit(X, Y, verbose=0, callbacks=[smart_tf.SmartPruningCallback()])
    with pytest.warns(UserWarning, match="SmartPruningCallback"):
        model.fit(X, Y, verbose=0)  # which builds it
    callback = smart_tf.SmartPruningCallback()
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    assert np.mean(layer.layer.kernel.numpy() == 0) == 0.5


def test_a_single_layer_is_wrapped_and_given_back():
    dense = layers.Dense(8)
    wrapper = smart_tf.prune(dense, 0.5, "4x4")
    assert isinstance(wrapper, smart_tf.PrunableLayer)
    wrapper(X)
    assert smart_tf.strip_pruning(wrapper) is dense
    assert np.mean(dense.kernel.numpy() == 0) == 0.5


def test_a_single_layer_that_is_built_gets_its_masks_at_once():
    dense = layers.Dense(8)
    dense.build((None, 16))
    wrapper = smart_tf.prune(dense, 0.5, "4x4")
    assert smart_tf.report(wrapper).sparsity == 0.5
    assert smart_tf.strip_pruning(wrapper) is dense
    assert np.mean(dense.kernel.numpy() == 0) == 0.5


@pytest.mark.parametrize("choice", [{"filters": "dense"}, {"budget": "macs"}])
def test_there_is_nothing_to_choose_from_in_a_single_layer(choice):
    with pytest.raises(ValueError, match="must be left out where .* a single layer"):
        smart_tf.prune(layers.Dense(8), 0.5, "4x4", **choice)


# ---- Wrappers in layers


class Holder(layers.Layer):
    """A wrapper of one's own in a layer: itself, in a list, or in a graph in it."""

    def __init__(self, how, **kwargs):
        super().__init__(**kwargs)
        wrapper = smart_tf.PrunableLayer(layers.Dense(16), "4x4", 0.5)
        graph = keras.Sequential([keras.Input((16,)), wrapper])
        self.held = {"itself": wrapper, "list": [wrapper], "graph": graph}[how]
        self.other = layers.Dense(16, name="other")

    def build(self, shape):
        for layer in self._flatten_layers(include_self=False, recursive=False):
            if not layer.built:
                layer.build(shape)

    def call(self, x):
        return self.other(
            (self.held[0] if isinstance(self.held, list) else self.held)(x)
        )


class HoldsInModel(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.holder, self.head = layer, layers.Dense(4)

    def call(self, x):
        return self.head(self.holder(x))


@pytest.mark.parametrize("how", ["itself", "list", "graph"])
@pytest.mark.parametrize("subclassed", [False, True])
def test_wrappers_in_layers_are_stripped(how, subclassed, tmp_path):
    holder = Holder(how, name="holder")
    if subclassed:
        model = built(HoldsInModel(holder))
    else:
        model = keras.Sequential([keras.Input((16,)), holder, layers.Dense(4)])
    (wrapper,) = wrappers(model)
    callback = smart_tf.SmartPruningCallback(search_epochs=1)
    compiled(model).fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    hard = output(model, X)
    stripped = smart_tf.strip_pruning(model)
    assert not wrappers(stripped)
    assert holder in stripped.layers and holder.other in holder._flatten_layers()
    assert wrapper.layer in stripped._flatten_layers()
    assert_same([hard], [output(stripped, X)], atol=1e-6)
    assert np.mean(wrapper.layer.kernel.numpy() == 0) == 0.5
    assert len(stripped.weights) == 6
    stripped.save_weights(tmp_path / "x.weights.h5")
    stripped.load_weights(tmp_path / "x.weights.h5")


def test_wrappers_in_built_in_containers_are_stripped():
    dense = layers.Dense(8)
    wrapper = smart_tf.PrunableLayer(dense, "4x4", 0.5, "magnitude")
    container = layers.TimeDistributed(wrapper)
    stripped = smart_tf.strip_pruning(
        keras.Sequential([keras.Input((3, 8)), container])
    )
    assert container.layer is dense and not wrappers(stripped)
    assert np.mean(dense.kernel.numpy() == 0) == 0.5


# ---- What is left alone


def test_layers_that_rewrite_their_kernel_in_each_call_are_left_alone():
    def trained(prepare):
        keras.utils.set_random_seed(5)
        normalised = layers.SpectralNormalization(layers.Dense(16), name="normalised")
        model = keras.Sequential([keras.Input((16,)), normalised, layers.Dense(4)])
        model = prepare(model)
        compiled(model, "sgd").fit(X, Y, batch_size=16, shuffle=False, verbose=0)
        return model, normalised

    def prepare(model):
        return smart_tf.prune(model, 0.0, "4x4", "magnitude")

    plain, expected = trained(lambda model: model)
    with pytest.warns(UserWarning, match="SmartPruningCallback"):
        pruned, normalised = trained(prepare)
    reason = {"normalised": "rewrites its kernel in every call"}
    assert smart_tf.report(pruned).skipped == reason
    assert len(wrappers(pruned)) == 1
    assert_same(expected.get_weights(), normalised.get_weights(), atol=1e-6)
    assert_same([output(plain, X)], [output(pruned, X)], atol=1e-5)
    with pytest.raises(ValueError, match="'normalised'.*rewrites its kernel"):
        smart_tf.PrunableLayer(normalised, "4x4", 0.5).build_around_built()


def test_frozen_layers_are_left_alone():
    model = keras.Sequential(
        [keras.Input((16,)), layers.Dense(16, name="frozen"), layers.Dense(4)]
    )
    model.layers[0].trainable = False
    before = model.layers[0].kernel.numpy()
    pruned, stripped = train(model)
    np.testing.assert_array_equal(before, stripped.layers[0].kernel.numpy())
    assert smart_tf.report(pruned).skipped == {"frozen": "not trainable"}


def test_layers_of_float8_are_left_alone():
    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(16, dtype="float8_from_float32", name="eight"),
            layers.Dense(4),
        ]
    )
    pruned, _ = train(model)
    assert smart_tf.report(pruned).skipped == {"eight": "quantized"}


@pytest.mark.parametrize("training", [True, False])
def test_lora_in_a_pruned_layer_is_refused(training):
    attention = layers.MultiHeadAttention(2, 8)
    x = keras.Input((3, 16))
    pruned = smart_tf.prune(keras.Model(x, attention(x, x)), 0.5, "4x4")
    attention.query_dense.enable_lora(2)
    with pytest.raises(ValueError, match="call `smart_tf.strip_pruning`.*'query'"):
        pruned(np.ones((1, 3, 16)), training=training)


def test_layers_with_lora_are_left_alone():
    model = keras.Sequential(
        [keras.Input((16,)), layers.Dense(16, name="adapted"), layers.Dense(4)]
    )
    model.layers[0].enable_lora(2)
    pruned = smart_tf.prune(model, 0.5, "4x4")
    pruned(X)
    assert smart_tf.report(pruned).skipped == {"adapted": "not trainable"}


@pytest.mark.parametrize(
    "filters",
    [
        "second|third",
        ["second", "third"],
        lambda layer: layer.name != "first",
    ],
    ids=["regex", "names", "function"],
)
def test_filters_choose_layers(filters):
    names = ("first", "second", "third")
    model = keras.Sequential(
        [keras.Input((16,)), *(layers.Dense(8, name=name) for name in names)]
    )
    pruned = smart_tf.prune(model, 0.5, "4x4", filters=filters)
    assert [layer.name for layer in wrappers(pruned)] == ["second", "third"]
    assert smart_tf.report(pruned).skipped == {
        "first": "left out when the model was pruned"
    }


def named_alike():
    """Two models in a model, each with a layer of the same name."""

    def inner(name, inputs, units):
        x = keras.Input((inputs,))
        return keras.Model(x, layers.Dense(units, name="dense")(x), name=name)

    first, second, x = (
        inner("first", 16, 16),
        inner("second", 16, 4),
        keras.Input((16,)),
    )
    return keras.Model(x, second(first(x))), first, second


@pytest.mark.parametrize(
    "choose",
    [
        lambda first, second: [second.get_layer("dense")],
        lambda first, second: [second],
        lambda first, second: ["second"],
    ],
    ids=["layer", "model", "name_of_a_model"],
)
def test_filters_tell_layers_of_the_same_name_apart(choose):
    model, first, second = named_alike()
    pruned = smart_tf.prune(model, 0.5, "4x4", filters=choose(first, second))
    assert [w.layer for w in wrappers(pruned)] == [second.get_layer("dense")]


def test_kernels_of_the_same_name_are_numbered_where_they_are_shown():
    pruned = compiled(smart_tf.prune(named_alike()[0], 0.5, "4x4"))
    names = ["dense/kernel", "dense/kernel_1"]
    assert [k.name for k in smart_tf.report(pruned).kernels] == names
    history = smart_tf.MaskHistory()
    callbacks = [smart_tf.SmartPruningCallback(), history]
    pruned.fit(X, Y, epochs=2, batch_size=16, verbose=0, callbacks=callbacks)
    assert {n: len(kept) for n, kept in history.masks.items()} == dict.fromkeys(
        names, 2
    )


def test_a_look_at_a_part_leaves_the_common_ranking_alone():
    pruned = smart_tf.prune(named_alike()[0], 0.5, "4x4")
    searching(pruned)
    ranking = wrappers(pruned)[0].ranking
    smart_tf.report(wrappers(pruned)[1])
    assert all(w.ranking is ranking for w in wrappers(pruned))


def test_filters_take_layers_themselves():
    model = keras.Sequential([keras.Input((16,)), layers.Dense(8), layers.Dense(8)])
    pruned = smart_tf.prune(model, 0.5, "4x4", filters=[model.layers[1]])
    assert [is_wrapper(layer) for layer in pruned.layers] == [False, True]


# ---- Strip


@pytest.mark.parametrize("structure", ["4x4", "unstructured", "channel", "2:4"])
def test_strip_of_an_untrained_model_is_the_hard_masked_one(structure):
    x = keras.Input((8, 8, 4))
    y = layers.Conv2D(8, 3, activation="relu", name="conv")(x)
    y = layers.Dense(4, name="head")(layers.Flatten()(y))
    model = keras.Model(x, y, name="mine")
    config, paths = model.get_config(), [v.path for v in model.variables]
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 4)).astype("float32")

    pruned = smart_tf.prune(model, None if ":" in structure else 0.5, structure)
    pruner = smart_tf.Pruner(pruned, smart_tf.TemperatureSchedule(0, 1))
    pruner.ranking.freeze()
    raw = {layer.name: layer.kernel.numpy() for layer in wrappers(pruned)}
    hard = output(pruned, images)
    stripped = smart_tf.strip_pruning(pruned)
    assert_same([hard], [output(stripped, images)])
    assert all((raw[n] == stripped.get_layer(n).kernel.numpy()).all() for n in raw)
    assert stripped.get_config() == config
    assert [v.path for v in stripped.variables] == paths
    assert type(stripped) is type(model)


def test_strip_of_a_plain_model_is_the_model_itself():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    assert smart_tf.strip_pruning(model) is model


def test_the_users_constraints_hold_and_are_given_back():
    limit = keras.constraints.MaxNorm(0.3, axis=0)
    dense = layers.Dense(16, kernel_constraint=limit, name="limited")
    model = keras.Sequential([keras.Input((16,)), dense, layers.Dense(4)])
    config = dense.get_config()
    pruned, stripped = train(model, optimizer=keras.optimizers.SGD(0.5))
    assert np.linalg.norm(dense.kernel.numpy(), axis=0).max() <= 0.3 + 1e-5
    assert dense.kernel.constraint is limit
    assert stripped.layers[1].kernel.constraint is None
    assert dense.get_config() == config


def test_a_model_may_be_compiled_with_functions_of_ones_own():
    def loss(labels, outputs):
        return keras.ops.mean(keras.ops.square(outputs), axis=-1)

    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8)])
    model.compile(keras.optimizers.Adam(0.125), loss, metrics=[lambda y, p: p[:, 0]])
    x = np.ones((8, 16), "float32")
    expected = model.evaluate(x, x[:, :8], verbose=0)
    pruned = smart_tf.prune(model, 0.0, "4x4")
    assert float(pruned.optimizer.learning_rate) == 0.125
    assert pruned.optimizer is not model.optimizer
    assert pruned.evaluate(x, x[:, :8], verbose=0) == pytest.approx(expected)
    final = smart_tf.strip_pruning(pruned)
    assert final.evaluate(x, x[:, :8], verbose=0) == pytest.approx(expected)
    with pytest.warns(UserWarning, match="can be removed"):
        assert not smart_tf.shrink(final).compiled
    assert model.compiled
