"""When the masks are searched for, and at which temperature (algorithm 1)."""

import math
import sys

import tensorflow as tf


class TemperatureSchedule:
    """Exponential fall of the temperature over the structure search.

    During the search, step `s` of `S = end_step - begin_step` runs at
    `tau_s = tau_0 * (tau_1 / tau_0) ** (s / S)` (section 2.3, "dynamic
    temperature parameter trick"). Before the search the temperature stays at
    `initial_temperature`, after it at `final_temperature`.

    A schedule is a pure function of the step: it can be called with Python
    numbers, with tensors, and inside a `tf.function`. It answers as a
    `tfmot.sparsity.keras.PruningSchedule` does, and
    `isinstance(schedule, PruningSchedule)` holds once
    tensorflow-model-optimization is imported.

    Example:

    ```python
    schedule = TemperatureSchedule(begin_step=0, end_step=1000)
    searching, temperature = schedule(500)   # True, 0.1
    ```

    Args:
        begin_step: Integer >= 0, the first step of the search, counted in
            optimizer updates from 0 (in batches, where the optimizer accumulates
            gradients over several).
        end_step: Integer > `begin_step`, the step at which the search is over
            and the masks are frozen.
        initial_temperature: Positive float, `tau_0`. By default that of `"smart"`,
            whatever the model's method.
        final_temperature: Positive float <= `initial_temperature`, `tau_1`; likewise.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        begin_step,
        end_step,
        initial_temperature=3.0,
        final_temperature=0.01,
    ):
        for name, step in (("begin_step", begin_step), ("end_step", end_step)):
            if not math.isfinite(step) or int(step) != step:
                raise ValueError(
                    f"Argument `{name}` must be a whole number of optimizer updates. "
                    f"Received: {name}={step!r}"
                )
        if begin_step < 0:
            raise ValueError(
                f"Argument `begin_step` must be >= 0. Received: {begin_step=}"
            )
        if end_step <= begin_step:
            raise ValueError(
                "Argument `end_step` must be larger than `begin_step`, or the "
                f"search would never start. Received: {begin_step=}, {end_step=}"
            )
        if not 0 < final_temperature <= initial_temperature < float("inf"):
            raise ValueError(
                "Arguments `initial_temperature` and `final_temperature` must be "
                "finite, positive, and must not rise. Received: "
                f"{initial_temperature=}, {final_temperature=}"
            )
        self.begin_step = int(begin_step)
        self.end_step = int(end_step)
        self.initial_temperature = float(initial_temperature)
        self.final_temperature = float(final_temperature)
        _join_tfmot()

    def __call__(self, step):
        """The state of the search at a step.

        Args:
            step: Integer or integer scalar tensor.

        Returns:
            `(searching, temperature)`: a boolean and a float32 scalar tensor.
            `searching` is true from `begin_step` to `end_step`, both included.
        """
        step = tf.cast(step, tf.float32)
        done = (step - self.begin_step) / (self.end_step - self.begin_step)
        fall = self.final_temperature / self.initial_temperature
        temperature = self.initial_temperature * tf.pow(
            fall, tf.clip_by_value(done, 0.0, 1.0)
        )
        return tf.logical_and(done >= 0.0, done <= 1.0), temperature

    def get_config(self):
        """Returns `{"class_name", "config"}`, as tfmot's schedules do."""
        return {
            "class_name": type(self).__name__,
            "config": {
                "begin_step": self.begin_step,
                "end_step": self.end_step,
                "initial_temperature": self.initial_temperature,
                "final_temperature": self.final_temperature,
            },
        }

    @classmethod
    def from_config(cls, config):
        """Rebuilds a schedule from either form of its config.

        tfmot writes the nested form and reads the inner one.
        """
        return cls(**config.get("config", config))

    def __eq__(self, other):
        return type(other) is type(self) and other.get_config() == self.get_config()

    def __hash__(self):
        return hash(tuple(self.get_config()["config"].items()))

    def __repr__(self):
        arguments = ", ".join(
            f"{name}={value!r}" for name, value in self.get_config()["config"].items()
        )
        return f"{type(self).__name__}({arguments})"


def check_schedule(schedule):
    """Raises a `TypeError` unless `schedule` is None or a `TemperatureSchedule`."""
    if schedule is not None and not isinstance(schedule, TemperatureSchedule):
        raise TypeError(
            "Argument `schedule` must be a `TemperatureSchedule`. "
            f"Received: schedule={schedule!r}"
        )


def _join_tfmot():
    """Declares ours a `PruningSchedule` if tfmot is there already.

    Never imports tfmot: that would switch the whole process to `tf_keras`.
    """
    tfmot = sys.modules.get("tensorflow_model_optimization")
    if tfmot is not None and hasattr(tfmot, "sparsity"):
        tfmot.sparsity.keras.PruningSchedule.register(TemperatureSchedule)
