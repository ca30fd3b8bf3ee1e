"""What every method answers, and how methods are named and configured."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import smart_tf
from smart_tf import methods
from tests.references import compiled, data, mlp, zeros


def test_methods_are_found_by_name_config_and_object():
    smart = methods.Smart(initial_temperature=3.0, mask_momentum=0.5)
    assert methods.get("smart") == methods.get("SMART") == methods.Smart()
    assert methods.get(smart) is smart
    config = json.loads(json.dumps(smart.get_config()))
    assert config["class_name"] == "Smart"
    assert methods.get(config) == smart == methods.deserialize(config)


def test_a_methods_settings_reach_wrapper_optimizer_and_schedule():
    smart = methods.Smart(
        initial_temperature=3.0,
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
    assert schedule == smart_tf.TemperatureSchedule(0, 4, 3.0, 0.3)
    own = model.optimizer.mask_optimizer
    assert float(own.learning_rate) == pytest.approx(0.25)
    assert own.momentum == 0.0


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
