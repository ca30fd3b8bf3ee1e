"""`PruningOptimizer` and `RestartedSchedule` for Keras 3."""

import keras

from smart_tf.optimizer import MaskRouting
from smart_tf.restart import RestartAtFreeze


class _Serialization:
    @staticmethod
    def _serialize(part):
        return keras.saving.serialize_keras_object(part)

    @staticmethod
    def _deserialize(config, custom_objects):
        return keras.saving.deserialize_keras_object(config, custom_objects)


@keras.saving.register_keras_serializable(package="smart_tf")
class PruningOptimizer(_Serialization, MaskRouting, keras.optimizers.Optimizer):
    """Keras 3 optimizer with a part for the weights and a part for the mask logits.

    `SmartPruningCallback` puts it around the model's optimizer; in a custom loop
    `smart_tf.Pruner.wrap_optimizer` does.

    Args:
        weights_optimizer: `keras.optimizers.Optimizer`, not built yet.
        mask_optimizer: `keras.optimizers.Optimizer`, not built yet.
        peak_rate: Float, the weights' largest learning rate.
        mask_rate: Float, the logits' largest learning rate, or None if the mask
            optimizer has a schedule of its own.
        name: String, or None.
    """

    def __init__(
        self,
        weights_optimizer,
        mask_optimizer,
        peak_rate=None,
        mask_rate=None,
        name=None,
    ):
        super().__init__(learning_rate=0.0, name=name)
        self._configure(weights_optimizer, mask_optimizer, peak_rate, mask_rate)

    def apply(self, grads, trainable_variables=None):
        if trainable_variables is None:
            known = self._trainable_variables
            trainable_variables = [known[place] for place in self._places]
        self.apply_gradients(list(zip(grads, trainable_variables, strict=True)))

    @property
    def _model_variables_moving_average(self):
        """The averages of the first variables, for `keras.callbacks.SwapEMAWeights`.

        A list `optimizers` would do, too, but `LearningRateScheduler` and
        `ReduceLROnPlateau` would then take the logits' rate for one of the user's.
        """
        parts = [self.weights_optimizer, self.mask_optimizer]
        averaged = [p for p in parts if p.use_ema] if parts[0].use_ema else parts[:1]
        return [v for part in averaged for v in part._model_variables_moving_average]


@keras.saving.register_keras_serializable(package="smart_tf")
class RestartedSchedule(
    _Serialization, RestartAtFreeze, keras.optimizers.schedules.LearningRateSchedule
):
    """Keras 3 learning-rate schedule that starts over when the masks freeze.

    `SmartPruningCallback(restart_learning_rate=True)` makes one; in a custom loop it is
    handed to the optimizer.

    Args:
        schedule: `keras.optimizers.schedules.LearningRateSchedule`.
        begin: Integer >= 0, the update that the schedule starts over from, mostly 0.
        freeze: Integer >= `begin`, the update at which the masks freeze.
        end: Integer > `freeze`, the update at which training ends.

    Raises:
        ValueError: If the updates do not rise.
    """


LossScaleOptimizer = keras.optimizers.LossScaleOptimizer


def trained_by(optimizer, model):
    """The variables that a built optimizer knows."""
    return list(optimizer._trainable_variables)


def average_of(optimizer, variable):
    """The moving average that an optimizer keeps of a variable, or None."""
    averages = getattr(optimizer, "_model_variables_moving_average", ())
    pairs = zip(getattr(optimizer, "_trainable_variables", ()), averages, strict=False)
    return next((average for known, average in pairs if known is variable), None)
