"""What every method answers, and how methods are named and configured."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import smart_tf
from smart_tf import methods
from smart_tf.search import SEARCHING, SearchState
from tests.references import EachBatch, compiled, data, linear, mlp, soft_topk, zeros


def test_methods_are_found_by_name_config_and_object():
    smart = methods.Smart(initial_temperature=2.0, mask_momentum=0.5)
    assert methods.get("smart") == methods.get("SMART") == methods.Smart()
    assert methods.get(smart) is smart
    config = json.loads(json.dumps(smart.get_config()))
    assert config["class_name"] == "Smart"
    assert methods.get(config) == smart == methods.deserialize(config)


def test_a_methods_settings_reach_wrapper_optimizer_and_schedule():
    smart = methods.Smart(
        initial_temperature=2.0,
        final_temperature=0.3,
        initial_spread=0.7,
        mask_learning_rate=0.25,
        mask_momentum=0.0,
    )
    model = compiled(smart_tf.prune(mlp(), 0.75, "4x4", method=smart))
    logits = np.concatenate(
        [m.logits.numpy().ravel() for w in model.layers for m in w.weight_masks]
    )
    assert logits.std() == pytest.approx(0.7, rel=1e-4)
    x, y = data()
    callback = smart_tf.SmartPruningCallback(search_epochs=1)
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    schedule = model.layers[0].schedule
    assert schedule == smart_tf.TemperatureSchedule(0, 4, 2.0, 0.3)
    own = model.optimizer.mask_optimizer
    assert float(own.learning_rate) == pytest.approx(0.25)
    assert own.momentum == 0.0


def test_the_papers_settings_are_a_name_away():
    """Table 5, ResNet50: 10 to 1e-4, and for the masks the weights' optimizer."""
    assert methods.get("paper") == methods.Smart.paper() != methods.Smart()
    model = smart_tf.prune(mlp(), 0.75, "4x4", method="paper")
    model = compiled(model, keras.optimizers.AdamW(1e-4, beta_1=0.8, weight_decay=0.03))
    x, y = data()
    callback = smart_tf.SmartPruningCallback(pretrain_epochs=1, search_epochs=1)
    look = EachBatch(
        lambda m: [k.logits.numpy() for w in m.layers for k in w.weight_masks]
    )
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[callback, look])
    assert model.layers[0].schedule == smart_tf.TemperatureSchedule(4, 8, 10.0, 1e-4)
    assert not any(logits.any() for logits in look.seen[3])
    assert any(logits.any() for logits in look.seen[4])
    own = model.optimizer.mask_optimizer
    assert isinstance(own, keras.optimizers.AdamW)
    assert (own.beta_1, own.weight_decay) == (0.8, 0.0)
    assert float(own.learning_rate) == pytest.approx(1e-4)
    model.optimizer.from_config(model.optimizer.get_config())
    final = smart_tf.strip_pruning(model)
    assert smart_tf.report(final).sparsity == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(("method", "tau"), [("paper", 0.05), ("smart", 15.0)])
def test_groups_of_n_of_m_are_ranked_as_they_are_or_at_a_scale_of_their_own(
    method, tau
):
    """Eq. 14 on `|w|`, or on `|w|` with a root mean square of 300."""
    kernel = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    model = smart_tf.prune(linear(kernel), structure="2:4", method=method)
    (mask,) = model.layers[-1].weight_masks
    state = SearchState(*(tf.constant(v) for v in (SEARCHING, tau, 0.0, 0.0, 0.0, 1.0)))
    got = mask.method.soft_mask(tf.constant(kernel), mask, state).numpy()
    magnitudes = np.abs(kernel.astype("float64"))
    if method == "smart":
        magnitudes *= 300.0 / np.sqrt((magnitudes**2).mean())
    for column in range(3):
        for rows in (slice(0, 4), slice(4, 8)):
            expected = soft_topk(magnitudes[rows, column], 2, tau)
            np.testing.assert_allclose(got[rows, column], expected, atol=1e-5)


def test_settings_are_saved_with_the_model(tmp_path):
    smart = methods.Smart(initial_spread=0.3)
    smart_tf.prune(mlp(), 0.75, "4x4", method=smart).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [layer.method for layer in loaded.layers] == [smart] * 3


@dataclasses.dataclass(frozen=True)
class Smallest(methods.Method):
    """Keeps the blocks that are smallest, at full strength until the freeze."""

    def soft_mask(self, weights, weight_mask, state):
        return tf.ones(weight_mask.mask.shape)

    def final_scores(self, weight_mask):
        return -weight_mask.scores()


@pytest.fixture
def names(monkeypatch):
    """The methods that are known by name; what a test adds is forgotten."""
    names = dict(methods.base._METHODS)
    monkeypatch.setattr(methods.base, "_METHODS", names)
    return names


def test_settings_that_no_field_knows_are_refused_before_anything_is_pruned(names):
    class Initialised(Smallest):
        def __init__(self, sign=1):
            object.__setattr__(self, "sign", sign)

    class Undecorated(methods.Magnitude):
        updates: int = 5  # `Magnitude.__init__` would not know of it

    class Inherits(Undecorated):
        pass

    for method in (Initialised(-1), Undecorated(), Inherits()):
        model = mlp()
        with pytest.raises(TypeError, match="`method` must be of a dataclass"):
            smart_tf.prune(model, 0.5, "4x4", method)
        assert not smart_tf.flavours.wrappers(model)


def test_a_subclass_without_settings_of_its_own_needs_no_decorator(names):
    class Largest(methods.Magnitude):
        def final_scores(self, weight_mask):
            return -super().final_scores(weight_mask)

    method = Largest(updates=4)
    assert methods.get(method) is method
    assert methods.get(method.get_config()) == method


def test_the_names_of_the_package_cannot_be_taken(names):
    before = dict(names)
    for name in ("Magnitude", "SMART", "Paper"):
        with pytest.raises(ValueError, match="another name.*smart_tf's own"):
            type(name, (methods.Method,), {})
    assert names == before


def test_a_method_of_ones_own_may_be_defined_anew(names):
    first, second = (type("Mine", (methods.Method,), {}) for _ in range(2))
    assert type(methods.get("mine")) is second is not first


def test_a_method_of_ones_own_gets_phases_freeze_and_strip(monkeypatch):
    monkeypatch.setattr(methods.base, "_METHODS", {"smallest": Smallest})
    model = compiled(smart_tf.prune(mlp(), 0.75, "4x4", method=Smallest()))
    optimizer = model.optimizer
    x, y = data()
    callback = smart_tf.SmartPruningCallback(search_epochs=1)
    model.fit(x, y, batch_size=64, epochs=1, verbose=0, callbacks=[callback])
    assert model.optimizer is optimizer  # no logits: nothing to route
    assert zeros(model) == 0.75
    assert zeros(smart_tf.strip_pruning(model)) == 0.75
