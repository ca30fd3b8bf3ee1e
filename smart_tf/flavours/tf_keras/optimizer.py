"""`PruningOptimizer` and `RestartedSchedule` for `tf_keras`."""

import tensorflow as tf
import tf_keras as keras
from tf_keras import mixed_precision

from smart_tf.optimizer import MaskRouting
from smart_tf.restart import RestartAtFreeze


@keras.saving.register_keras_serializable(package="smart_tf")
class PruningOptimizer(MaskRouting, keras.optimizers.Optimizer):
    """As `smart_tf.flavours.keras3.PruningOptimizer`, for `tf_keras`."""

    def __init__(
        self,
        weights_optimizer,
        mask_optimizer,
        peak_rate=None,
        mask_rate=None,
        name="PruningOptimizer",
    ):
        super().__init__(name=name)
        self._configure(weights_optimizer, mask_optimizer, peak_rate, mask_rate)
        _rename_iterations(mask_optimizer)

    def _build_part(self, optimizer, variables):
        # As in its own `apply_gradients`, so that its slots get the same names.
        with tf.name_scope(optimizer.name), tf.init_scope():
            optimizer.build(variables)

    def set_weights(self, weights):
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)

    def update_step(self, gradient, variable):
        raise NotImplementedError("The parts update their own variables.")

    def _rate_of_this_update(self):
        # The property is brought up to date in the middle of an update only.
        rate = self.weights_optimizer._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return rate(self.iterations)
        return self.weights_optimizer.learning_rate

    @staticmethod
    def _serialize(optimizer):
        return keras.saving.serialize_keras_object(optimizer)

    @staticmethod
    def _deserialize(config, custom_objects):
        # `.h5` files and SavedModels name no module.
        return keras.optimizers.deserialize(
            config, custom_objects, use_legacy_format="module" not in config
        )


@keras.saving.register_keras_serializable(package="smart_tf")
class RestartedSchedule(
    RestartAtFreeze, keras.optimizers.schedules.LearningRateSchedule
):
    """As `smart_tf.flavours.keras3.RestartedSchedule`, for `tf_keras`."""

    @staticmethod
    def _serialize(schedule):
        return keras.optimizers.schedules.serialize(schedule)

    @staticmethod
    def _deserialize(config, custom_objects):
        return keras.optimizers.schedules.deserialize(config, custom_objects)


# `.h5` files and SavedModels look schedules up without their package.
keras.saving.get_custom_objects()["RestartedSchedule"] = RestartedSchedule


def _rename_iterations(optimizer):
    """Two optimizers go into one `.h5` file, where no two variables share a name."""
    old = optimizer.iterations
    with tf.init_scope():
        new = tf.Variable(old, trainable=False, name=f"mask_{old.name.split(':')[0]}")
    optimizer._variables = [new if v is old else v for v in optimizer._variables]
    optimizer.iterations = new


LossScaleOptimizer = mixed_precision.LossScaleOptimizer


def trained_by(optimizer, model):
    """The variables of a model that a built optimizer knows."""
    known = optimizer._index_dict
    return [v for v in model.trainable_variables if optimizer._var_key(v) in known]


def average_of(optimizer, variable):
    """The moving average that an optimizer keeps of a variable, or None."""
    if not getattr(optimizer, "use_ema", False):
        return None
    place = optimizer._index_dict.get(optimizer._var_key(variable))
    return None if place is None else optimizer._model_variables_moving_average[place]
