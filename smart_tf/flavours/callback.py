"""A callback for `fit` of both flavours."""

import keras


class Callback(keras.callbacks.Callback):
    """A Keras 3 callback that answers what `tf_keras` asks of its own.

    It has hooks for training batches, and none for those of tests and predictions.
    """

    _supports_tf_logs = False

    def _implements_train_batch_hooks(self):
        return True

    def _implements_test_batch_hooks(self):
        return False

    def _implements_predict_batch_hooks(self):
        return False
