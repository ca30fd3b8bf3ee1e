"""When the search runs, and how its temperature falls."""

import json

import numpy as np
import pytest
import tensorflow as tf

from smart_tf import TemperatureSchedule
from tests.references import temperature_at


def test_temperature_falls_exponentially_with_every_step():
    schedule = TemperatureSchedule(0, 200, 10.0, 1e-4)
    for step in range(0, 201, 7):
        searching, temperature = schedule(step)
        assert bool(searching)
        expected = temperature_at(step, 200, 10.0, 1e-4)
        np.testing.assert_allclose(float(temperature), expected, rtol=1e-5)


def test_temperature_stands_still_before_and_after_the_search():
    schedule = TemperatureSchedule(10, 20, 2.0, 0.5)
    assert [bool(schedule(s)[0]) for s in (0, 9, 10, 20, 21)] == [0, 0, 1, 1, 0]
    before, after = schedule(3)[1], schedule(10_000)[1]
    np.testing.assert_allclose([before, after], [2.0, 0.5], rtol=1e-6)


def test_it_is_a_pure_function_inside_a_graph():
    schedule = TemperatureSchedule(2, 12, 1.0, 0.01)
    traced = tf.function(schedule)
    for step in (0, 2, 7, 12, 40):
        here, there = schedule(step), traced(tf.constant(step, tf.int64))
        assert bool(here[0]) == bool(there[0])
        assert there[1].dtype == tf.float32
        np.testing.assert_allclose(here[1], there[1], rtol=1e-6)


def test_both_forms_of_the_config_rebuild_it():
    schedule = TemperatureSchedule(3, 9, 4.0, 0.25)
    config = json.loads(json.dumps(schedule.get_config()))
    assert config["class_name"] == "TemperatureSchedule"
    for form in (config, config["config"]):
        again = TemperatureSchedule.from_config(form)
        assert again == schedule
        assert hash(again) == hash(schedule)
    assert schedule != TemperatureSchedule(3, 9, 4.0, 0.5)
    assert eval(repr(schedule)) == schedule


@pytest.mark.parametrize(
    "arguments",
    [
        (-1, 5),
        (5, 5),
        (5, 4),
        (0, 5, 1.0, 2.0),
        (0, 5, 1.0, 0.0),
        (0, 5, float("inf"), 1.0),
        (0, 5, float("nan"), 1.0),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(arguments):
    with pytest.raises(ValueError, match="Argument.*Received"):
        TemperatureSchedule(*arguments)
