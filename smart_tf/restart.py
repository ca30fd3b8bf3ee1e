"""A learning rate that goes through its schedule once more when the masks freeze."""

import tensorflow as tf

from smart_tf.optimizer import constant_learning_rate


class RestartAtFreeze:
    """Mixin: a learning-rate schedule that starts over when the masks freeze.

    Update `s` has the rate of `schedule` at `s` as long as `s < freeze`, and from there
    on at `begin + (s - freeze) * (end - begin) / (end - freeze)`: all of the schedule
    is gone through again in the updates that are left. A cosine that is cut short by
    the freeze in the middle begins at its peak once more.

    The flavour's class gives `_serialize` and `_deserialize`, and its own base.

    Reference:
        - [Renda et al., 2020](https://arxiv.org/abs/2003.02389), learning rate
          rewinding
        - [Le and Hua, 2021](https://arxiv.org/abs/2105.03193), "scaled learning rate
          restarting"
    """

    def __init__(self, schedule, begin, freeze, end):
        if not 0 <= begin <= freeze < end:
            raise ValueError(
                "Arguments `begin`, `freeze` and `end` must be numbers of updates that "
                "rise, and leave some for fine-tuning. "
                f"Received: {begin=}, {freeze=}, {end=}"
            )
        super().__init__()
        self.schedule = schedule
        self.begin, self.freeze, self.end = int(begin), int(freeze), int(end)

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        speed = (self.end - self.begin) / (self.end - self.freeze)
        again = self.begin + (step - self.freeze) * speed
        return self.schedule(tf.where(step < self.freeze, step, again))

    def get_config(self):
        schedule = self._serialize(self.schedule)
        places = {"begin": self.begin, "freeze": self.freeze, "end": self.end}
        return {"schedule": schedule, **places}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        schedule = cls._deserialize(config["schedule"], custom_objects)
        return cls(**{**config, "schedule": schedule})


def restart_learning_rate(optimizer, flavour, begin, freeze, end):
    """Lets the learning rate of the weights start over when the masks freeze.

    One that was told so before is told anew.

    Args:
        optimizer: The model's optimizer; its learning rate is changed.
        flavour: Package of the model's Keras.
        begin: Integer, the update at which the run began.
        freeze: Integer, the update at which the masks freeze.
        end: Integer, the update at which the run ends; all three are counted as the
            optimizer counts its own.

    Raises:
        ValueError: If the learning rate is constant.
    """
    if constant_learning_rate(optimizer) is not None:
        raise ValueError(
            "Argument `restart_learning_rate` needs an optimizer whose learning rate "
            "is a `LearningRateSchedule`, such as `CosineDecay`: a constant rate has "
            "nothing to start over, and one that callbacks set is theirs. Received: "
            f"restart_learning_rate=True, optimizer={optimizer!r}"
        )
    schedule = optimizer._learning_rate
    if isinstance(schedule, RestartAtFreeze):
        schedule = schedule.schedule
    optimizer.learning_rate = flavour.RestartedSchedule(schedule, begin, freeze, end)
