"""`PruningOptimizer` for Keras 3."""

import keras

from smart_tf.optimizer import MaskRouting


@keras.saving.register_keras_serializable(package="smart_tf")
class PruningOptimizer(MaskRouting, keras.optimizers.Optimizer):
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
            trainable_variables = self._trainable_variables
        self.apply_gradients(list(zip(grads, trainable_variables, strict=True)))

    @property
    def optimizers(self):
        """Both parts, as `keras.callbacks.SwapEMAWeights` asks for them."""
        return [self.weights_optimizer, self.mask_optimizer]

    @staticmethod
    def _serialize(optimizer):
        return keras.saving.serialize_keras_object(optimizer)

    @staticmethod
    def _deserialize(config, custom_objects):
        return keras.saving.deserialize_keras_object(config, custom_objects)


LossScaleOptimizer = keras.optimizers.LossScaleOptimizer


def trained_by(optimizer, model):
    """The variables that a built optimizer knows."""
    return list(optimizer._trainable_variables)
