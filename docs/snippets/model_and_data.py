import keras
import numpy as np

import smart_tf

keras.utils.set_random_seed(0)


def convolution(inputs, channels, name, strides=1):
    options = {"strides": strides, "padding": "same", "use_bias": False}
    outputs = keras.layers.Conv2D(channels, 3, name=name, **options)(inputs)
    outputs = keras.layers.BatchNormalization(name=f"{name}_norm")(outputs)
    return keras.layers.Activation("relu", name=f"{name}_relu")(outputs)


image = keras.Input((8, 8, 3), name="image")
stem = convolution(image, 16, "stem")
inner = convolution(stem, 16, "inner")
total = keras.layers.Add(name="total")([stem, inner])
last = convolution(total, 32, "last", strides=2)
pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(last)
label = keras.layers.Dense(10, activation="softmax", name="label")(pooled)
model = keras.Model(image, label, name="small")

x = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
y = np.arange(64) % 10
