"""Small Keras 3 networks for the examples and benchmarks."""

import keras
from keras import layers


def small_resnet(
    input_shape, classes, widths=(16, 32, 64), blocks=1, stem_strides=2, name=None
):
    """A residual network; about 78,000 weights with the default widths.

    Args:
        input_shape: The shape of one image, `(height, width, channels)`.
        classes: How many logits to return.
        widths: Channels of each stage; every stage but the first halves the image.
        blocks: Residual blocks per stage.
        stem_strides: Strides of the first convolution; 1 is four times slower than 2.
        name: The model's name.

    Returns:
        A Functional model from images to logits.
    """
    inputs = keras.Input(input_shape, name="image")
    x = _conv(inputs, widths[0], stem_strides, name="stem")
    for stage, width in enumerate(widths):
        for block in range(blocks):
            strides = 2 if stage > 0 and block == 0 else 1
            x = _residual(x, width, strides, name=f"stage{stage}_block{block}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(classes, name="logits")(x)
    return keras.Model(inputs, outputs, name=name or "small_resnet")


def resnet20(input_shape, classes):
    """The 20-layer residual network for 32x32 images (He et al., 2016)."""
    return small_resnet(input_shape, classes, blocks=3, stem_strides=1, name="resnet20")


def small_plain(input_shape, classes, widths=(16, 32, 64), blocks=2):
    """A network of convolutions in a row, without shortcuts; about 72,000 weights.

    Args:
        input_shape: The shape of one image.
        classes: How many logits to return.
        widths: Channels of each stage; every stage but the first halves the image.
        blocks: Convolutions per stage.

    Returns:
        A Functional model from images to logits.
    """
    inputs = keras.Input(input_shape, name="image")
    x = _conv(inputs, widths[0], 2, name="stem")
    for stage, width in enumerate(widths):
        for block in range(blocks):
            strides = 2 if stage > 0 and block == 0 else 1
            x = _conv(x, width, strides, name=f"stage{stage}_conv{block}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(classes, name="logits")(x)
    return keras.Model(inputs, outputs, name="small_plain")


def small_mobilenet(
    input_shape, classes, widths=(24, 48, 96), blocks=2, expansion=6, name=None
):
    """A network of inverted residuals, as MobileNetV2; about 230,000 weights.

    Args:
        input_shape: The shape of one image.
        classes: How many logits to return.
        widths: Channels of each stage; every stage but the first halves the image.
        blocks: Inverted residuals per stage.
        expansion: How many times wider the depthwise convolutions are.
        name: The model's name.

    Returns:
        A Functional model from images to logits.
    """
    inputs = keras.Input(input_shape, name="image")
    x = _conv(inputs, widths[0], 2, activation="relu6", name="stem")
    for stage, width in enumerate(widths):
        for block in range(blocks):
            strides = 2 if stage > 0 and block == 0 else 1
            name_of_block = f"stage{stage}_block{block}"
            x = _inverted_residual(x, width, strides, expansion, name_of_block)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(classes, name="logits")(x)
    return keras.Model(inputs, outputs, name=name or "small_mobilenet")


def small_vit(input_shape, classes, patch=4, width=64, depth=4, heads=4):
    """A vision transformer; about 200,000 weights by default.

    Args:
        input_shape: The shape of one image; `patch` divides height and width.
        classes: How many logits to return.
        patch: The side of a square patch, in pixels.
        width: The size of a token.
        depth: How many transformer blocks.
        heads: Attention heads per block.

    Returns:
        A Functional model from images to logits.
    """
    inputs = keras.Input(input_shape, name="image")
    x = layers.Conv2D(width, patch, strides=patch, name="patches")(inputs)
    tokens = (input_shape[0] // patch) * (input_shape[1] // patch)
    x = layers.Reshape((tokens, width), name="tokens")(x)
    x = PositionEmbedding(name="positions")(x)
    for block in range(depth):
        x = _transformer_block(x, width, heads, name=f"block{block}")
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    outputs = layers.Dense(classes, name="logits")(x)
    return keras.Model(inputs, outputs, name="small_vit")


@keras.saving.register_keras_serializable(package="smart_tf_examples")
class PositionEmbedding(layers.Layer):
    """Adds a learned vector to every token."""

    def build(self, input_shape):
        self.position = self.add_weight(
            shape=input_shape[1:], initializer="random_normal", name="position"
        )

    def call(self, inputs):
        return inputs + self.position


def _conv(x, width, strides=1, size=3, activation="relu", name=None):
    x = layers.Conv2D(
        width, size, strides=strides, padding="same", use_bias=False, name=name
    )(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return layers.Activation(activation, name=f"{name}_act")(x) if activation else x


def _residual(x, width, strides, name):
    shortcut = x
    if strides != 1 or x.shape[-1] != width:
        shortcut = _conv(x, width, strides, 1, None, f"{name}_shortcut")
    x = _conv(x, width, strides, name=f"{name}_conv0")
    x = _conv(x, width, activation=None, name=f"{name}_conv1")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.Activation("relu", name=f"{name}_act")(x)


def _inverted_residual(x, width, strides, expansion, name):
    shortcut = x
    x = _conv(x, expansion * x.shape[-1], 1, 1, "relu6", f"{name}_expand")
    x = layers.DepthwiseConv2D(
        3, strides=strides, padding="same", use_bias=False, name=f"{name}_depthwise"
    )(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_depthwise_norm")(x)
    x = layers.Activation("relu6", name=f"{name}_depthwise_act")(x)
    x = _conv(x, width, 1, 1, None, f"{name}_project")
    if strides != 1 or shortcut.shape[-1] != width:
        return x
    return layers.Add(name=f"{name}_add")([x, shortcut])


def _transformer_block(x, width, heads, name):
    y = layers.LayerNormalization(name=f"{name}_norm0")(x)
    attention = layers.MultiHeadAttention(
        heads, width // heads, name=f"{name}_attention"
    )
    x = layers.Add(name=f"{name}_add0")([x, attention(y, y)])
    y = layers.LayerNormalization(name=f"{name}_norm1")(x)
    y = layers.Dense(4 * width, activation="gelu", name=f"{name}_up")(y)
    y = layers.Dense(width, name=f"{name}_down")(y)
    return layers.Add(name=f"{name}_add1")([x, y])
