"""Small models of many kinds, for both flavours, and zeros in them.

Every builder takes the flavour's module, `keras` or `tf_keras`.
"""

import numpy as np


def batch_norm_chain(k):
    """conv - BN - ReLU - depthwise - BN - separable - pool - dense."""
    L = k.layers
    x = image = k.Input((8, 8, 3))
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    x = L.ReLU()(L.BatchNormalization(name="bn")(x))
    x = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depth")(x)
    x = L.Activation("swish")(L.BatchNormalization(scale=False, name="no_scale")(x))
    x = L.SeparableConv2D(6, 3, depth_multiplier=2, name="separable")(x)
    x = L.BatchNormalization(center=False, name="no_center")(x)
    x = L.MaxPooling2D(2)(L.LeakyReLU()(x))
    x = L.Dropout(0.2)(L.GlobalAveragePooling2D()(x))
    return k.Model(image, L.Dense(4, name="last")(x))


def residual(k):
    """Two residual blocks: what is added goes together."""
    L = k.layers
    x = image = k.Input((8, 8, 3))
    x = L.BatchNormalization(name="bn_0")(L.Conv2D(8, 3, name="stem")(x))
    for i in (1, 2):
        y = L.Conv2D(6, 3, padding="same", name=f"in_{i}")(L.ReLU()(x))
        y = L.ReLU()(L.BatchNormalization(name=f"bn_in_{i}")(y))
        y = L.Conv2D(8, 3, padding="same", use_bias=False, name=f"out_{i}")(y)
        x = L.Add()([x, L.BatchNormalization(name=f"bn_out_{i}")(y)])
    x = L.Flatten()(L.AveragePooling2D(2)(x))
    return k.Model(image, L.Dense(4, name="last")(x))


def squeeze_excite(k):
    """A gate that a sigmoid makes; an operator multiplies."""
    L = k.layers
    x = image = k.Input((6, 6, 3))
    x = L.BatchNormalization(name="bn")(L.Conv2D(8, 1, name="conv")(x))
    s = L.GlobalAveragePooling2D(keepdims=True)(x)
    s = L.Conv2D(4, 1, activation="relu", name="squeeze")(s)
    s = L.Conv2D(8, 1, activation="sigmoid", name="excite")(s)
    x = L.Conv2D(5, 3, activation="hard_sigmoid", name="after")(x * s)
    return k.Model(image, L.Dense(4, name="last")(L.Flatten()(x)))


def unet(k):
    """Concatenated skips, transposed convolutions, up-sampling, cropping."""
    L = k.layers
    image = k.Input((8, 8, 2))
    one = L.Conv2D(6, 3, padding="same", activation="relu", name="down_1")(image)
    two = L.Conv2D(8, 3, padding="same", name="down_2")(L.MaxPooling2D(2)(one))
    two = L.ReLU()(L.BatchNormalization(name="bn")(two))
    low = L.Conv2D(10, 3, padding="same", name="bottom")(L.MaxPooling2D(2)(two))
    up = L.Conv2DTranspose(8, 2, strides=2, name="up_2")(low)
    x = L.Conv2D(8, 3, padding="same", name="join_2")(L.Concatenate()([two, up]))
    x = L.UpSampling2D(2)(x)
    x = L.Cropping2D(1)(L.ZeroPadding2D(1)(x))
    x = L.Conv2D(6, 1, name="join_1")(L.Concatenate(axis=-1)([x, one]))
    return k.Model(image, L.Conv2D(3, 1, activation="softmax", name="mask")(x))


def bisenet(k):
    """A spatial and a context branch, attention refinement, feature fusion."""
    L = k.layers
    image = k.Input((16, 16, 3))

    def block(x, width, name, stride=2):
        x = L.Conv2D(
            width, 3, stride, padding="same", use_bias=False, name=f"{name}_conv"
        )(x)
        return L.ReLU()(L.BatchNormalization(name=f"{name}_bn")(x))

    def refine(x, width, name):
        s = L.GlobalAveragePooling2D()(x)
        s = L.Dense(width, name=f"{name}_gate")(L.Reshape((1, 1, width))(s))
        s = L.Activation("sigmoid")(L.BatchNormalization(name=f"{name}_bn")(s))
        return L.Multiply()([x, s])

    spatial = block(block(image, 6, "s1"), 8, "s2")
    context = block(block(block(image, 6, "c1"), 8, "c2"), 8, "c3")
    context = refine(context, 8, "refine")
    context = L.UpSampling2D(2, interpolation="bilinear")(context)
    x = block(L.Concatenate()([spatial, context]), 10, "fuse", stride=1)
    x = L.Add()([x, refine(x, 10, "attend")])
    head = L.Conv2D(3, 1, name="head")(x)
    return k.Model(image, [head, L.Conv2D(3, 1, name="auxiliary")(context)])


def yolo(k):
    """Three scales, stacked max-pooling, heads that are reshaped and put together."""
    L = k.layers
    image = k.Input((16, 16, 3))

    def block(x, width, name, stride=1):
        x = L.Conv2D(width, 3, stride, padding="same", use_bias=False, name=name)(x)
        return L.Activation("swish")(L.BatchNormalization(name=f"{name}_bn")(x))

    large = block(image, 8, "p1", 2)
    y = block(block(large, 6, "bottle_1"), 8, "bottle_2")
    large = L.Concatenate()([large, large + y])
    small = block(large, 10, "p2", 2)
    pooled = L.MaxPooling2D(3, 1, padding="same")(small)
    small = block(L.Concatenate()([small, pooled]), 10, "spp")
    up = L.UpSampling2D(2)(small)
    large = block(L.Concatenate()([large, up]), 8, "neck")
    heads = []
    for name, x in (("large", large), ("small", small)):
        x = L.Conv2D(6, 1, name=f"box_{name}")(x)
        heads.append(L.Reshape((-1, 6))(x))
    return k.Model(image, L.Concatenate(axis=1)(heads))


def vit(k):
    """Patches, attention, two-layer perceptrons between LayerNorms."""
    L = k.layers
    image = k.Input((8, 8, 3))
    x = L.Conv2D(8, 4, 4, name="patches")(image)
    x = L.Reshape((4, 8))(x)
    for i in (1, 2):
        y = L.LayerNormalization(name=f"ln_a{i}")(x)
        y = L.MultiHeadAttention(4, 3, name=f"attention_{i}")(y, y)
        x = L.Add()([x, y])
        y = L.LayerNormalization(name=f"ln_b{i}")(x)
        y = L.Dense(12, activation="gelu", name=f"up_{i}")(y)
        x = L.Add()([x, L.Dense(8, name=f"down_{i}")(L.Dropout(0.1)(y))])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return k.Model(image, L.Dense(4, name="last")(x))


def attention_between(k):
    """Queries and values of their own widths, and a free width of the output."""
    L = k.layers
    one, other = k.Input((4, 5)), k.Input((6, 7))
    q = L.Dense(8, activation="relu", name="q")(one)
    v = L.Dense(6, activation="relu", name="v")(other)
    x = L.MultiHeadAttention(3, 2, value_dim=4, output_shape=9, name="attention")(q, v)
    x = L.Dense(5, name="after")(L.ReLU()(x))
    return k.Model([one, other], L.Flatten()(x))


def grouped(k):
    """A grouped convolution, GroupNorm, and channels in front of Flatten."""
    L = k.layers
    image = k.Input((6, 6, 3))
    x = L.ReLU()(L.Conv2D(8, 1, name="conv")(image))
    x = L.Conv2D(12, 3, groups=2, padding="same", name="grouped")(x)
    x = L.ReLU()(L.GroupNormalization(4, name="gn")(x))
    x = L.Conv2D(6, 1, name="after")(x)
    return k.Model(image, L.Dense(4, name="last")(L.Flatten()(x)))


def sequence(k):
    """Embedding, one-dimensional convolutions and a recurrent layer."""
    L = k.layers
    tokens = k.Input((8,), dtype="int32")
    x = L.Embedding(11, 6, name="embedding")(tokens)
    x = L.Conv1D(8, 3, padding="causal", activation="relu", name="conv")(x)
    x = L.MaxPooling1D(2)(L.ZeroPadding1D(1)(x))
    x = L.Conv1DTranspose(6, 2, strides=2, name="up")(x)
    x = L.SeparableConv1D(6, 3, name="separable")(x)
    x = L.LSTM(5, name="lstm")(L.UpSampling1D(2)(L.PReLU(shared_axes=[1])(x)))
    return k.Model(tokens, L.Dense(4, name="last")(x))


def volumes(k):
    """Three-dimensional convolutions, permuted and reshaped."""
    L = k.layers
    image = k.Input((4, 4, 4, 2))
    x = L.Conv3D(6, 3, padding="same", activation="relu", name="conv")(image)
    x = L.AveragePooling3D(2)(x)
    x = L.Conv3DTranspose(5, 2, strides=2, name="up")(x)
    x = L.Reshape((16, 4, 5))(x)
    x = L.Permute((2, 1, 3))(x)
    x = L.Conv2D(6, 3, name="flat")(x)
    return k.Model(image, L.Dense(4, name="last")(L.GlobalMaxPooling2D()(x)))


def shared(k):
    """A layer that is used twice, and operators on what it makes."""
    L = k.layers
    left, right = k.Input((6,), name="left"), k.Input((6,), name="right")
    twin = L.Dense(8, activation="relu", name="twin")
    second = L.Dense(5, activation="relu", name="second")
    one, other = second(twin(left)), second(twin(right))
    x = L.Average()([one, other]) + L.Maximum()([one, other])
    x = 0.5 * L.Subtract()([x, one]) - other / 3.0
    return k.Model([left, right], L.Dense(4, name="last")(x))


def nested(k):
    """A Functional and a Sequential model in another, each with narrowed inputs."""
    L = k.layers
    inside = k.Input((6, 6, 8))
    y = L.ReLU()(L.Conv2D(8, 3, padding="same", name="inner_conv")(inside))
    body = k.Model(inside, L.Add()([inside, y]), name="body")
    tail = k.Sequential(
        [k.Input((6, 6, 8)), L.Conv2D(6, 1, name="tail_conv"), L.ReLU(), L.Flatten()],
        name="tail",
    )
    x = image = k.Input((6, 6, 3))
    x = L.Conv2D(8, 1, activation="relu", name="first")(x)
    return k.Model(image, L.Dense(4, name="last")(tail(body(body(x)))))


def sequential(k):
    L = k.layers
    return k.Sequential(
        [
            k.Input((6, 6, 2)),
            L.Conv2D(6, 3, name="conv"),
            L.BatchNormalization(name="bn"),
            L.ReLU(),
            L.Flatten(),
            L.Dense(8, activation="tanh", name="hidden"),
            L.Dense(3, name="last"),
        ],
        name="plain",
    )


def two_in_two_out(k):
    """Several inputs and outputs, and channels that are one behind another."""
    L = k.layers
    left, right = k.Input((6, 4), name="left"), k.Input((3, 4), name="right")
    one = L.Dense(8, activation="relu", name="one")(left)
    other = L.Dense(8, activation="relu", name="other")(right)
    x = L.Concatenate(axis=1)([one, other])
    x = L.Dense(6, activation="softplus", name="both")(x)
    first = L.Dense(3, name="first")(x)
    second = L.Dense(2, name="second")(L.GlobalAveragePooling1D()(other))
    return k.Model([left, right], [first, second])


def generator(k):
    """Units of a Dense layer that become channels at several places."""
    L = k.layers
    x = noise = k.Input((5,))
    x = L.Dense(2 * 2 * 6, activation="relu", name="dense")(x)
    x = L.Reshape((2, 2, 6))(x)
    x = L.Conv2DTranspose(4, 3, strides=2, padding="same", name="up")(x)
    return k.Model(noise, L.Conv2D(2, 1, name="last")(L.ReLU()(x)))


def shuffle(k):
    """Grouped convolutions with the channels shuffled in between."""
    L = k.layers
    image = k.Input((4, 4, 3))
    x = L.Conv2D(8, 1, activation="relu", name="conv")(image)
    x = L.Reshape((4, 4, 2, 4))(L.Conv2D(8, 1, groups=2, name="one")(x))
    x = L.Reshape((4, 4, 8))(L.Permute((1, 2, 4, 3))(x))
    x = L.Conv2D(6, 1, groups=2, name="two")(x)
    return k.Model(image, L.Dense(4, name="last")(L.GlobalMaxPooling2D()(x)))


def einsum(k):
    L = k.layers
    x = words = k.Input((4, 5))
    x = L.EinsumDense("abc,cd->abd", (4, 8), bias_axes="d", name="one")(x)
    x = L.EinsumDense("...x,xy->...y", 6, activation="relu", name="two")(x)
    return k.Model(words, L.Dense(3, name="last")(L.Flatten()(x)))


def masked(k):
    """Masks: of padded tokens, and one that is given to the attention."""
    L = k.layers
    tokens, pairs = k.Input((6,), dtype="int32"), k.Input((6, 6))
    x = L.Embedding(11, 8, mask_zero=True, name="embedding")(tokens)
    x = L.Dense(8, activation="relu", name="dense")(x)
    y = L.MultiHeadAttention(2, 3, name="attention")(x, x, attention_mask=pairs)
    x = L.GRU(4, name="gru")(L.Dense(6, name="after")(y))
    return k.Model([tokens, pairs], L.Dense(3, name="last")(x))


def resized(k):
    L = k.layers
    x = image = k.Input((8, 8, 3))
    x = L.Resizing(9, 9)(L.Conv2D(6, 3, name="conv")(x))
    x = L.GroupNormalization(3, scale=False, center=False, name="norm")(x)
    return k.Model(image, L.Conv2D(2, 1, name="last")(x))


BUILDERS = [
    *(batch_norm_chain, residual, squeeze_excite, unet, bisenet, yolo, vit),
    *(attention_between, grouped, sequence, volumes, shared, nested, sequential),
    *(two_in_two_out, generator, shuffle, einsum, masked, resized),
]


def with_norms(*names):
    """Zeros in convolutions and their normalisations: `("conv", "bn", [0, 1])`."""
    return {name: channels for *found, channels in names for name in found}


CASES = [
    # builder, channels at zero, shapes that are left
    (
        batch_norm_chain,
        with_norms(("conv", "bn", [0, 1, 5]), ("separable", [2])),
        {
            "conv": (3, 3, 3, 5),
            "bn": (5,),
            "depth": (3, 3, 5, 2),
            "no_scale": (10,),
            "separable": (3, 3, 10, 2),
            "no_center": (5,),
            "last": (5, 4),
        },
    ),
    (
        residual,
        with_norms(
            *(("stem", "bn_0", [1, 3]), ("out_1", "bn_out_1", [1, 3])),
            *(("out_2", "bn_out_2", [1, 3]), ("in_1", "bn_in_1", [0, 4])),
        ),
        {
            "stem": (3, 3, 3, 6),
            "in_1": (3, 3, 6, 4),
            "out_1": (3, 3, 4, 6),
            "in_2": (3, 3, 6, 6),
            "last": (54, 4),
        },
    ),
    (
        residual,  # what is added in the second block is alive
        with_norms(("stem", "bn_0", [1, 3]), ("out_1", "bn_out_1", [1, 3])),
        {"stem": (3, 3, 3, 8), "out_1": (3, 3, 6, 8), "last": (72, 4)},
    ),
    (
        squeeze_excite,
        with_norms(("conv", "bn", [0, 1, 2]), ("squeeze", [3]), ("after", [2])),
        {
            "conv": (1, 1, 3, 5),
            "squeeze": (1, 1, 5, 3),
            "excite": (1, 1, 3, 5),
            "after": (3, 3, 5, 4),
            "last": (64, 4),
        },
    ),
    (
        squeeze_excite,  # a sigmoid makes 0.5 of a gate that is zero
        {"excite": [0, 1]},
        {"conv": (1, 1, 3, 8), "excite": (1, 1, 4, 8)},
    ),
    (
        unet,
        {
            **with_norms(("down_1", [0]), ("down_2", "bn", [1, 2]), ("bottom", [3])),
            **with_norms(("up_2", [0, 7]), ("join_2", [5]), ("join_1", [4])),
        },
        {
            "down_1": (3, 3, 2, 5),
            "down_2": (3, 3, 5, 6),
            "bottom": (3, 3, 6, 9),
            "up_2": (2, 2, 6, 9),
            "join_2": (3, 3, 12, 7),
            "join_1": (1, 1, 12, 5),
            "mask": (1, 1, 5, 3),
        },
    ),
    (
        bisenet,
        with_norms(
            *(("s2_conv", "s2_bn", [0]), ("fuse_conv", "fuse_bn", [9])),
            ("c3_conv", "c3_bn", [1]),
        ),
        {
            "c3_conv": (3, 3, 8, 7),
            "refine_gate": (7, 7),
            "auxiliary": (1, 1, 7, 3),
            "fuse_conv": (3, 3, 14, 9),
            "attend_gate": (9, 9),
            "head": (1, 1, 9, 3),
        },
    ),
    (
        yolo,
        with_norms(
            *(("p1", "p1_bn", [0]), ("bottle_2", "bottle_2_bn", [0])),
            ("p2", "p2_bn", [2]),
        ),
        {
            "p1": (3, 3, 3, 7),
            "bottle_1": (3, 3, 7, 6),
            "bottle_2": (3, 3, 6, 7),
            "p2": (3, 3, 14, 9),
            "spp": (3, 3, 18, 10),
            "neck": (3, 3, 24, 8),
        },
    ),
    (
        vit,
        {"up_1": [0, 1, 2, 3, 4, 5], "up_2": [11], "down_1": [0], "patches": [0]},
        {
            "up_1": (8, 6),
            "down_1": (6, 8),
            "up_2": (8, 11),
            "down_2": (11, 8),
            "patches": (4, 4, 3, 8),
        },
    ),
    (
        attention_between,
        {"q": [0], "v": [1, 2]},
        {"q": (5, 7), "v": (7, 4), "attention": (7, 3, 2)},
    ),
    (
        grouped,
        with_norms(("conv", [1, 5]), ("grouped", "gn", [0, 1, 2, 6, 7, 8])),
        {
            "conv": (1, 1, 3, 6),
            "grouped": (3, 3, 3, 6),
            "gn": (6,),
            "after": (1, 1, 6, 6),
        },
    ),
    (
        grouped,  # the same place in the other group is alive
        with_norms(("conv", [1]), ("grouped", "gn", [0, 1, 2])),
        {"conv": (1, 1, 3, 8), "grouped": (3, 3, 4, 12), "gn": (12,)},
    ),
    (
        sequence,
        {"embedding": [0], "conv": [1, 2], "up": [3], "separable": [5]},
        {
            "embedding": (11, 5),
            "conv": (3, 5, 6),
            "up": (2, 5, 6),
            "separable": (3, 5, 1),
            "lstm": (5, 20),
        },
    ),
    (
        volumes,
        {"conv": [0, 1], "up": [4], "flat": [2]},
        {
            "conv": (3, 3, 3, 2, 4),
            "up": (2, 2, 2, 4, 4),
            "flat": (3, 3, 4, 5),
            "last": (5, 4),
        },
    ),
    (
        shared,
        {"twin": [0, 1], "second": [4]},
        {"twin": (6, 6), "second": (6, 4), "last": (4, 4)},
    ),
    (
        nested,
        {"first": [0, 2], "inner_conv": [0, 2], "tail_conv": [1]},
        {
            "first": (1, 1, 3, 6),
            "inner_conv": (3, 3, 6, 6),
            "tail_conv": (1, 1, 6, 5),
            "last": (180, 4),
        },
    ),
    (
        sequential,
        with_norms(("conv", "bn", [0]), ("hidden", [1, 2])),
        {"conv": (3, 3, 2, 5), "hidden": (80, 6), "last": (6, 3)},
    ),
    (
        two_in_two_out,
        {"one": [0], "other": [0], "both": [1]},
        {"one": (4, 7), "other": (4, 7), "both": (7, 5), "first": (5, 3)},
    ),
    (
        two_in_two_out,  # the channel behind it is alive
        {"one": [0]},
        {"one": (4, 8), "other": (4, 8), "second": (8, 2)},
    ),
    (
        generator,
        {"dense": [2, 8, 14, 20]},
        {"dense": (5, 20), "up": (3, 3, 4, 5)},
    ),
    (
        generator,  # at one of four places it is alive
        {"dense": [2, 8, 14]},
        {"dense": (5, 24), "up": (3, 3, 4, 6)},
    ),
    (
        shuffle,
        {"conv": [0, 4]},
        {"conv": (1, 1, 3, 6), "one": (1, 1, 3, 8)},
    ),
    (
        einsum,
        {"one": [0], "two": [1, 2]},
        {"one": (5, 7), "two": (7, 4), "last": (16, 3)},
    ),
    (
        masked,
        {"embedding": [0, 1], "dense": [2], "after": [5]},
        {
            "embedding": (11, 6),
            "dense": (6, 7),
            "attention": (7, 2, 3),
            "after": (8, 5),
            "gru": (5, 12),
        },
    ),
    (resized, {"conv": [0, 1]}, {"conv": (3, 3, 3, 4), "last": (1, 1, 4, 2)}),
    (resized, {"conv": [0, 2]}, {"conv": (3, 3, 3, 6), "last": (1, 1, 6, 2)}),
]

KERNELS_ONLY = [
    # What biases and betas leave is folded where it is the same everywhere,
    (
        sequential,
        {"conv": [0, 1], "hidden": [3]},
        {"conv": (3, 3, 2, 4), "hidden": (64, 7), "last": (7, 3)},
    ),
    (
        batch_norm_chain,
        {"depth": [0, 1, 2], "separable": [0]},
        {"depth": (3, 3, 5, 2), "separable": (3, 3, 10, 2), "last": (5, 4)},
    ),
    # also in a layer that is used twice, if it is the same both times.
    (shared, {"twin": [0, 1]}, {"twin": (6, 6), "second": (6, 5)}),
    (two_in_two_out, {"both": [1]}, {"both": (8, 5), "first": (5, 3)}),
]


def names_of(cases):
    return [f"{builder.__name__}-{'-'.join(zeros)}" for builder, zeros, _ in cases]


def randomise(model, seed=0):
    """Every weight gets a value of its own: biases, statistics and factors as well."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False):
        for variable in layer.weights:
            value = rng.normal(0, 0.4, variable.shape)
            if "variance" in variable.name or "gamma" in variable.name:
                value = rng.uniform(0.5, 1.5, variable.shape)
            variable.assign(value)
    return model


def zero(model, channels, biases=True):
    """Sets what makes the channels of layers to zero.

    Args:
        model: The model.
        channels: Dict from the names of layers to lists of channels.
        biases: Whether biases (and betas) go as well.
    """
    layers = {layer.name: layer for layer in model._flatten_layers()}
    for name, dead in channels.items():
        kind = type(layers[name]).__name__
        for variable in layers[name].weights:
            weight = variable.name.split("/")[-1].split(":")[0]
            if weight.startswith("moving") or (
                weight in ("bias", "beta") and not biases
            ):
                continue
            if weight == "depthwise_kernel" and "Separable" in kind:
                continue  # that of its inputs
            value = np.array(variable.numpy())
            if "kernel" in weight and ("Transpose" in kind or "Depthwise" in kind):
                value[..., dead, :] = 0
            else:
                value[..., dead] = 0
            variable.assign(value)


def inputs_for(model, count=3, seed=0):
    """Random inputs of the model's shapes; integers below 10 where it wants them."""
    rng = np.random.default_rng(seed)

    def one(tensor):
        shape = (count, *(n or 5 for n in tuple(tensor.shape)[1:]))
        if "int" in str(tensor.dtype):
            return rng.integers(0, 10, shape).astype("int32")
        return rng.normal(size=shape).astype("float32")

    arrays = [one(tensor) for tensor in model.inputs]
    return arrays if len(arrays) > 1 else arrays[0]


def outputs_of(model, x):
    """List of float64 arrays, without dropout."""
    outputs = model(x, training=False)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return [np.asarray(one).astype("float64") for one in outputs]


def assert_same_outputs(one, other, x, tolerance=1e-5):
    """Largest difference relative to the largest output; both must say something."""
    for a, b in zip(outputs_of(one, x), outputs_of(other, x), strict=True):
        assert np.isfinite(a).all() and a.std() > 0
        assert np.abs(a - b).max() <= tolerance * np.abs(a).max()


def shapes(model):
    """Dict from the name of a layer to the shape of its first weight."""
    found = (k for k in model._flatten_layers(include_self=False) if k.weights)
    return {k.name: tuple(k.weights[0].shape) for k in found}


def cut_half(model, groups, seed=0):
    """Zeros for a random half of each group, written through the slices of groups.

    Returns:
        List of how many channels are left in each group.
    """
    rng = np.random.default_rng(seed)
    total = sum(len(group.channels) for group in groups)
    dead = np.zeros(total + 1, bool)  # the last is that of -1, which stays
    for group in groups:
        gone = rng.choice(group.channels, len(group.channels) // 2, replace=False)
        dead[gone] = True
    for one in groups.slices:
        value = np.array(one.variable.numpy())
        np.moveaxis(value, one.axis, 0)[dead[one.channels]] = 0
        one.variable.assign(value)
    return [int((~dead[group.channels]).sum()) for group in groups]
