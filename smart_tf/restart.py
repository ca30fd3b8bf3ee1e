"""A learning rate that goes through its schedule once more when the masks freeze."""

import tensorflow as tf


class RestartAtFreeze:
    """Mixin: a learning-rate schedule that starts over when the masks freeze.

    Update `s` has the rate of `schedule` at `s` as long as `s < freeze`, and from there
    on at `begin + (s - freeze) * (end - begin) / (end - freeze)`, rounded: all of the
    schedule is gone through again in the updates that are left. A cosine that is cut
    short by the freeze in the middle begins at its peak once more. From `end` on it is
    `schedule` again.

    The flavour's class gives `_serialize` and `_deserialize`, and its own base.

    Reference:
        - [Renda et al., 2020](https://arxiv.org/abs/2003.02389), learning rate
          rewinding
        - [Le and Hua, 2021](https://arxiv.org/abs/2105.03193), scaled learning rate
          restarting
    """

    def __init__(self, schedule, begin, freeze, end):
        if not callable(schedule):
            raise TypeError(
                "Argument `schedule` must be a `LearningRateSchedule`. "
                f"Received: {schedule=}"
            )
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
        step = tf.convert_to_tensor(step)
        since = tf.cast(step, tf.float32) - self.freeze
        speed = (self.end - self.begin) / (self.end - self.freeze)
        # Whole numbers, as optimizers count: a schedule may look them up in a table.
        again = tf.cast(tf.round(self.begin + since * speed), step.dtype)
        restarted = (step >= self.freeze) & (step < self.end)
        return self.schedule(tf.where(restarted, again, step))

    def get_config(self):
        schedule = self._serialize(self.schedule)
        places = {"begin": self.begin, "freeze": self.freeze, "end": self.end}
        return {"schedule": schedule, **places}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        schedule = cls._deserialize(config["schedule"], custom_objects)
        return cls(**{**config, "schedule": schedule})


def check_can_restart(optimizer, flavour):
    """Raise unless an optimizer has a schedule that could start over.

    Args:
        optimizer: The part that trains the weights, or None.
        flavour: Package of the model's Keras.

    Raises:
        ValueError: If there is none, or its learning rate is no `LearningRateSchedule`.
    """
    rate = getattr(optimizer, "_learning_rate", None)
    if isinstance(rate, flavour.keras.optimizers.schedules.LearningRateSchedule):
        return
    raise ValueError(
        "Argument `restart_learning_rate` needs a model that is compiled with an "
        "optimizer whose learning rate is a `LearningRateSchedule`, such as "
        "`CosineDecay`: a constant rate has nothing to start over, and one that "
        "callbacks set is theirs. Received: restart_learning_rate=True, "
        f"optimizer={optimizer!r}"
    )


def restart_learning_rate(optimizer, flavour, begin, freeze, end):
    """Has the learning rate of the weights start over when the masks freeze.

    Args:
        optimizer: One that `check_can_restart` has passed; its rate is changed.
        flavour: Package of the model's Keras.
        begin: Integer, the update at which the run began.
        freeze: Integer, the update at which the masks freeze.
        end: Integer, the update at which the run ends; all three are counted as the
            optimizer counts its own.
    """
    forget_restart(optimizer)
    schedule = optimizer._learning_rate
    optimizer.learning_rate = flavour.RestartedSchedule(schedule, begin, freeze, end)


def forget_restart(optimizer):
    """Gives an optimizer the schedule back that it had before."""
    schedule = getattr(optimizer, "_learning_rate", None)
    if isinstance(schedule, RestartAtFreeze):
        optimizer.learning_rate = schedule.schedule
