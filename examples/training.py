"""What the examples share: training, and measuring a model as it will be used."""

import keras
import numpy as np

import smart_tf


def fit(model, data, epochs, rate=1e-2, batch_size=128, callbacks=()):
    """Compiles and trains a classifier that returns logits.

    Args:
        model: Keras 3 model.
        data: `examples.datasets.Dataset`.
        epochs: Number of epochs.
        rate: Peak learning rate of AdamW, which falls along a cosine.
        batch_size: Images in a batch.
        callbacks: List of callbacks.

    Returns:
        `keras.callbacks.History`.
    """
    steps = -(-len(data.x_train) // batch_size) * epochs
    model.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # On CPUs XLA takes minutes to compile depthwise convolutions and then runs
        # them many times slower; on the other small networks here it gains nothing.
        jit_compile=False,
    )
    return model.fit(
        data.x_train,
        data.y_train,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=(data.x_val, data.y_val),
        callbacks=list(callbacks),
    )


def measure(name, model, data, folder):
    """Test accuracy as a Keras model and as both TFLite files, and the files' sizes.

    Writes `{name}_float.tflite` and `{name}_int8.tflite`.

    Args:
        name: String, how the files are called.
        model: Keras 3 model.
        data: `examples.datasets.Dataset`.
        folder: `pathlib.Path`.

    Returns:
        Dict of numbers; accuracies in [0, 1].
    """
    logits = model.predict(data.x_test, batch_size=500, verbose=0)
    kernels = smart_tf.report(model)
    row = {
        "parameters": kernels.parameters,
        "weights_left": sum(k.weights - k.zeros for k in kernels.kernels),
        "accuracy_keras": accuracy(logits, data.y_test),
    }
    for kind, quantize in (("float", None), ("int8", "int8")):
        path = folder / f"{name}_{kind}.tflite"
        export = smart_tf.export.to_tflite(
            model, path, quantize=quantize, representative_data=data.x_train[:200]
        )
        outputs = smart_tf.export.Interpreter(path).run(data.x_test)
        row[f"accuracy_{kind}"] = accuracy(outputs, data.y_test)
        row[f"bytes_{kind}"] = export.bytes
        row[f"gzip_bytes_{kind}"] = export.gzip_bytes
    return row


def accuracy(logits, labels):
    """Float: the fraction of rows of logits that are largest at the label."""
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def add_latency(rows, folder):
    """Adds what one run takes on one thread, timed interleaved, to measured rows.

    Args:
        rows: Dict from the names that `measure` was given to what it returned; the
            first is what the others are compared with.
        folder: `pathlib.Path` of the files.
    """
    for kind in ("float", "int8"):
        latency = smart_tf.export.benchmark(
            [folder / f"{name}_{kind}.tflite" for name in rows]
        )
        for row, measured in zip(rows.values(), latency.rows, strict=True):
            row[f"latency_ms_{kind}"] = measured.median_ms
            row[f"latency_ratio_{kind}"] = measured.ratio
