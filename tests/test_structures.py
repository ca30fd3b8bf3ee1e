"""What each structure does with a kernel, by hand and against plain loops."""

import dataclasses
import itertools
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import smart_tf
from smart_tf import structures
from smart_tf.layouts import Layout
from smart_tf.structures import NM, Block, Channel, Unstructured

DENSE = Layout(outputs=(1,), inputs=(0,))
CONV2D = Layout(outputs=(3,), inputs=(2,))
CONV2D_TRANSPOSE = Layout(outputs=(2,), inputs=(3,))
CONV3D = Layout(outputs=(4,), inputs=(3,))
DEPTHWISE = Layout(outputs=(2, 3), inputs=())
QUERY = Layout(outputs=(1, 2), inputs=(0,))
ATTENTION_OUTPUT = Layout(outputs=(2,), inputs=(0, 1))
SPLIT_OUTPUTS = Layout(outputs=(0, 2), inputs=(1,))


# ---- An independent reference, one weight at a time


def coordinates(structure, shape, layout):
    """Yields `(weight index, block index)` by walking over the kernel."""
    rank = len(shape)
    roles = {axis % rank: "position" for axis in range(rank)}
    roles.update({axis % rank: "output" for axis in layout.outputs})
    roles.update({axis % rank: "input" for axis in layout.inputs})
    for index in itertools.product(*map(range, shape)):
        block, positions, done = [], 0, set()
        for axis in range(rank):
            role = roles[axis]
            if role in done:
                continue
            merged = (axis,)
            if role != "position":
                done.add(role)
                merged = layout.outputs if role == "output" else layout.inputs
            place = 0
            for a in merged:
                place = place * shape[a] + index[a]
            if isinstance(structure, Channel):
                block.append(place if role == "output" else 0)
                continue
            if role == "position":
                sizes, at = structure.shape[2:], positions
                positions += 1
                size = sizes[at] if at < len(sizes) else 1
            else:
                size = structure.shape[0 if role == "output" else 1]
            block.append(place // size)
        yield index, tuple(block)


def weights_of_blocks(structure, shape, layout):
    blocks = {}
    for index, block in coordinates(structure, shape, layout):
        blocks.setdefault(block, []).append(index)
    return blocks


@st.composite
def cuts(draw):
    """A tile structure, a kernel shape of rank 1 to 5, and roles for its axes."""
    rank = draw(st.integers(1, 5))
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=rank, max_size=rank)))
    roles = draw(st.lists(st.sampled_from("oip"), min_size=rank, max_size=rank))
    outputs = draw(st.permutations([a for a in range(rank) if roles[a] == "o"]))
    inputs = draw(st.permutations([a for a in range(rank) if roles[a] == "i"]))
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=6))
    structure = draw(st.sampled_from([Block(tuple(sizes)), Channel()]))
    return structure, shape, Layout(tuple(outputs), tuple(inputs))


def values(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# ---- Golden values


def test_dense_block_is_outputs_by_inputs_and_ragged_at_the_far_edges():
    block = Block((2, 3))
    assert block.grid_shape((4, 5), DENSE) == (2, 3)
    np.testing.assert_array_equal(block.costs((4, 5), DENSE), [[6, 6, 3], [2, 2, 1]])
    mask = np.array([[1, 2, 3], [4, 5, 6]], "float32")
    expected = [
        [1, 1, 2, 2, 3],
        [1, 1, 2, 2, 3],
        [1, 1, 2, 2, 3],
        [4, 4, 5, 5, 6],
    ]
    np.testing.assert_array_equal(block.expand(mask, (4, 5), DENSE), expected)
    total = block.reduce_sum(tf.ones((4, 5)), DENSE)
    np.testing.assert_array_equal(total, [[6, 6, 3], [2, 2, 1]])


@pytest.mark.parametrize(
    "reduction, expected",
    [
        ("rms", [[5 / math.sqrt(2), 1], [0, 2]]),
        ("mean", [[3.5, 1], [0, 2]]),
        ("max", [[4, 1], [0, 2]]),
        ("sum", [[7, 1], [0, 2]]),
    ],
)
def test_scores_of_ragged_blocks_average_over_the_real_weights(reduction, expected):
    weights = np.array([[-3, 4, 1], [0, 0, -2]], "float32")
    scores = Block((2, 1)).scores(weights, DENSE, reduction)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected, rtol=1e-15)


def test_scores_do_not_lose_digits_of_many_equal_weights():
    weights = np.full((2**20, 1), 0.1, "float32")
    score = Channel().scores(weights, DENSE, "sum")[0, 0]
    assert score == pytest.approx(2**20 * float(np.float32(0.1)), rel=1e-12)


def test_convolution_block_covers_single_positions_unless_told():
    shape = (3, 3, 16, 32)
    assert Block((16, 8)).grid_shape(shape, CONV2D) == (3, 3, 2, 2)
    assert Block((16, 8, 1, 1)).grid_shape(shape, CONV2D) == (3, 3, 2, 2)
    assert Block((16, 8, 3, 2)).grid_shape(shape, CONV2D) == (1, 2, 2, 2)
    costs = Block((16, 8, 3, 2)).costs(shape, CONV2D)
    np.testing.assert_array_equal(costs[0, 0], np.full((2, 2), 16 * 8 * 3 * 2))
    np.testing.assert_array_equal(costs[0, 1], np.full((2, 2), 16 * 8 * 3 * 1))


def test_transposed_convolution_block_reads_outputs_before_inputs():
    block = Block((2, 4))
    assert block.grid_shape((1, 1, 4, 8), CONV2D_TRANSPOSE) == (1, 1, 2, 2)
    assert block.grid_shape((1, 1, 4, 8), CONV2D) == (1, 1, 1, 4)


def test_three_dimensional_convolution_takes_three_position_sizes():
    block = Block((2, 3, 1, 2, 3))
    assert block.grid_shape((2, 2, 4, 3, 4), CONV3D) == (2, 1, 2, 1, 2)
    costs = block.costs((2, 2, 4, 3, 4), CONV3D)
    assert costs[0, 0, 0, 0, 0] == 2 * 3 * 2 * 3 and costs[0, 0, 1, 0, 0] == 2 * 3 * 2


def test_depthwise_channels_merge_input_and_multiplier():
    shape = (2, 2, 3, 2)
    assert Channel().grid_shape(shape, DEPTHWISE) == (1, 1, 6)
    expected = np.broadcast_to(np.arange(6).reshape(3, 2), shape)
    expanded = Channel().expand(np.arange(6), shape, DEPTHWISE)
    np.testing.assert_array_equal(expanded, expected)
    assert Block((4, 8)).grid_shape(shape, DEPTHWISE) == (2, 2, 2)
    np.testing.assert_array_equal(Block((4, 8)).costs(shape, DEPTHWISE)[1, 1], [4, 2])


def test_attention_heads_merge_with_their_keys():
    assert Channel().grid_shape((8, 2, 3), QUERY) == (1, 6)
    heads = Channel().expand(np.arange(6), (8, 2, 3), QUERY)
    np.testing.assert_array_equal(heads[5], [[0, 1, 2], [3, 4, 5]])
    assert Block((4, 3)).grid_shape((2, 3, 8), ATTENTION_OUTPUT) == (2, 2)
    assert Block((4, 3)).grid_shape((8, 2, 3), QUERY) == (3, 2)


def test_outputs_on_both_sides_of_the_inputs_are_merged_in_order():
    expanded = Channel().expand(np.arange(4), (2, 3, 2), SPLIT_OUTPUTS)
    expected = [[[0, 1]] * 3, [[2, 3]] * 3]
    np.testing.assert_array_equal(expanded, expected)
    swapped = Layout(outputs=(2, 0), inputs=(1,))
    expanded = Channel().expand(np.arange(4), (2, 3, 2), swapped)
    np.testing.assert_array_equal(expanded, [[[0, 2]] * 3, [[1, 3]] * 3])


def test_a_kernel_smaller_than_the_block_is_one_block():
    assert Block((16, 8)).grid_shape((3, 4), DENSE) == (1, 1)
    np.testing.assert_array_equal(Block((16, 8)).costs((3, 4), DENSE), [[12]])


def test_unstructured_blocks_are_the_weights_in_their_own_shape():
    weights = values((8, 2, 3))
    free = Unstructured()
    assert free.grid_shape((8, 2, 3), QUERY) == (8, 2, 3)
    for reduction in ("rms", "mean", "max", "sum"):
        scores = free.scores(weights, QUERY, reduction)
        np.testing.assert_array_equal(scores, np.abs(weights.astype("float64")))
    mask = values((8, 2, 3), seed=1)
    np.testing.assert_array_equal(free.apply(weights, mask, QUERY), weights * mask)
    np.testing.assert_array_equal(free.expand(mask, (8, 2, 3), QUERY), mask)
    np.testing.assert_array_equal(free.reduce_sum(weights, QUERY), weights)
    assert free.costs((8, 2, 3), QUERY).sum() == 48


# ---- Properties of the tiles, against the loops


@settings(max_examples=150, deadline=None)
@given(cuts())
def test_grid_costs_and_sums_match_a_walk_over_the_weights(cut):
    structure, shape, layout = cut
    blocks = weights_of_blocks(structure, shape, layout)
    grid = structure.grid_shape(shape, layout)
    assert set(blocks) == set(itertools.product(*map(range, grid)))
    costs = structure.costs(shape, layout)
    assert costs.dtype == np.float64 and costs.shape == grid
    assert costs.sum() == math.prod(shape)
    weights = values(shape)
    sums = structure.reduce_sum(weights, layout).numpy()
    assert sums.shape == grid
    for block, indices in blocks.items():
        assert costs[block] == len(indices)
        expected = math.fsum(weights[index] for index in indices)
        assert sums[block] == pytest.approx(expected, rel=1e-5, abs=1e-5)


@settings(max_examples=100, deadline=None)
@given(cuts(), st.sampled_from(["rms", "mean", "max", "sum"]))
def test_scores_match_a_walk_over_the_weights(cut, reduction):
    structure, shape, layout = cut
    weights = values(shape)
    scores = structure.scores(weights, layout, reduction)
    for block, indices in weights_of_blocks(structure, shape, layout).items():
        held = [abs(float(weights[index])) for index in indices]
        expected = {
            "rms": math.sqrt(math.fsum(v * v for v in held) / len(held)),
            "mean": math.fsum(held) / len(held),
            "max": max(held),
            "sum": math.fsum(held),
        }[reduction]
        assert scores[block] == pytest.approx(expected, rel=1e-12)


@settings(max_examples=150, deadline=None)
@given(cuts())
def test_expand_and_apply_match_a_walk_over_the_weights(cut):
    structure, shape, layout = cut
    weights = values(shape)
    mask = values(structure.grid_shape(shape, layout), seed=1)
    expected = np.empty(shape, "float32")
    for index, block in coordinates(structure, shape, layout):
        expected[index] = mask[block]
    np.testing.assert_array_equal(structure.expand(mask, shape, layout), expected)
    product = structure.apply(weights, mask, layout)
    np.testing.assert_array_equal(product, weights * expected)


@settings(max_examples=100, deadline=None)
@given(cuts())
def test_gradients_of_apply_are_those_of_equation_6(cut):
    structure, shape, layout = cut
    weights = tf.constant(values(shape))
    mask = tf.constant(values(structure.grid_shape(shape, layout), seed=1))
    upstream = values(shape, seed=2)
    with tf.GradientTape() as tape:
        tape.watch([weights, mask])
        product = structure.apply(weights, mask, layout)
    to_weights, to_mask = tape.gradient(product, [weights, mask], upstream)
    for index, block in coordinates(structure, shape, layout):
        expected = mask.numpy()[block] * upstream[index]
        assert to_weights.numpy()[index] == pytest.approx(expected, rel=1e-6)
    for block, indices in weights_of_blocks(structure, shape, layout).items():
        expected = math.fsum(weights.numpy()[i] * upstream[i] for i in indices)
        assert to_mask.numpy()[block] == pytest.approx(expected, rel=1e-5, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(cuts())
def test_reduce_sum_is_the_adjoint_of_expand(cut):
    structure, shape, layout = cut
    mask = tf.constant(values(structure.grid_shape(shape, layout), seed=1))
    weights = values(shape).astype("float64")
    with tf.GradientTape() as tape:
        tape.watch(mask)
        expanded = structure.expand(mask, shape, layout)
    (gradient,) = tape.gradient(expanded, [mask], weights.astype("float32"))
    np.testing.assert_allclose(
        gradient, structure.reduce_sum(weights, layout), rtol=1e-4, atol=1e-5
    )


def test_more_tiled_axes_than_tensorflow_broadcasts():
    block, shape = Block((2, 2, 2, 2, 2)), (4, 4, 4, 4, 4)
    mask = values((2, 2, 2, 2, 2))
    expected = mask
    for axis in range(5):
        expected = np.repeat(expected, 2, axis)
    np.testing.assert_array_equal(block.expand(mask, shape, CONV3D), expected)
    weights = values(shape, seed=1)
    product = block.apply(weights, mask, CONV3D)
    np.testing.assert_array_equal(product, weights * expected)


def test_axes_that_one_tile_covers_are_stretched_when_nothing_else_is_left():
    layout, shape = Layout(outputs=(), inputs=()), (2, 3, 2, 3, 2, 3, 2)
    block = Block((1, 1, 2, 1, 2, 1, 2, 1, 2))
    mask = values((1, 3, 1, 3, 1, 3, 1))
    expected = np.broadcast_to(mask, shape)
    np.testing.assert_array_equal(block.expand(mask, shape, layout), expected)


# ---- How they run


def test_apply_on_even_blocks_is_one_multiplication_between_reshapes():
    @tf.function
    def masked(weights, mask):
        return Block((16, 8)).apply(weights, mask, CONV2D)

    graph = masked.get_concrete_function(
        tf.TensorSpec((3, 3, 32, 32)), tf.TensorSpec((3, 3, 4, 2))
    ).graph
    kinds = [op.type for op in graph.get_operations()]
    work = [k for k in kinds if k not in ("Placeholder", "Const", "Identity")]
    assert sorted(work) == ["Mul", "Reshape", "Reshape", "Reshape"]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", ["5x3", "4x4x2x2", "channel", "unstructured"])
def test_graphs_and_xla_agree_with_eager_execution(name, jit_compile):
    structure, weights = structures.get(name), values((3, 3, 8, 12))
    mask = values(structure.grid_shape(weights.shape, CONV2D), seed=1)

    def step(weights, mask):
        with tf.GradientTape() as tape:
            tape.watch([weights, mask])
            product = structure.apply(weights, mask, CONV2D)
            loss = tf.reduce_sum(product**2)
        return product, *tape.gradient(loss, [weights, mask])

    arguments = tf.constant(weights), tf.constant(mask)
    compiled = tf.function(step, jit_compile=jit_compile)(*arguments)
    for left, right in zip(compiled, step(*arguments), strict=True):
        assert left.shape.is_fully_defined()
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["3x2", "channel", "unstructured"])
def test_flat_and_boolean_masks_are_taken(name):
    structure, weights = structures.get(name), values((5, 6))
    mask = values(structure.grid_shape((5, 6), DENSE)) > 0
    product = structure.apply(weights, mask, DENSE)
    assert product.dtype == tf.float32
    expanded = structure.expand(mask, (5, 6), DENSE)
    assert expanded.dtype == tf.bool
    np.testing.assert_array_equal(product, np.where(expanded, weights, 0))
    flat = structure.apply(weights, mask.reshape(-1), DENSE)
    np.testing.assert_array_equal(flat, product)


def test_a_mask_of_another_grid_is_refused_even_if_its_size_fits():
    with pytest.raises(ValueError, match=r"must have shape \(2, 3\) or \(6,\)"):
        Block((2, 3)).expand(np.ones((3, 2)), (4, 5), DENSE)
    with pytest.raises(ValueError, match=r"Argument `mask`"):
        Unstructured().apply(np.ones((2, 3)), np.ones((3,)), DENSE)


def test_variables_and_low_precision_weights_are_taken():
    variable = tf.Variable(tf.cast(values((8, 16)), tf.bfloat16))
    scores = Channel().scores(variable, DENSE)
    expected = np.sqrt((variable.numpy().astype("float64") ** 2).mean(0))
    np.testing.assert_allclose(scores[0], expected)
    product = Channel().apply(variable, np.ones((1, 16), "float32"), DENSE)
    assert product.dtype == tf.bfloat16


def test_an_unknown_reduction_is_refused():
    for structure in (Unstructured(), Channel()):
        with pytest.raises(ValueError, match="Argument `reduction`.*reduction='l2'"):
            structure.scores(np.ones((2, 2)), DENSE, "l2")


# ---- N:M


def test_groups_run_along_the_inputs_with_a_short_one_at_the_end():
    weights = np.arange(12, dtype="float32").reshape(6, 2)
    (full, keep), (short, keep_short) = NM(2, 4).to_groups(weights, DENSE)
    np.testing.assert_array_equal(full, [[0, 2, 4, 6], [1, 3, 5, 7]])
    np.testing.assert_array_equal(short, [[8, 10], [9, 11]])
    assert (keep, keep_short) == (2, 1)


@pytest.mark.parametrize(
    "keep, of, length, kept",
    [
        (2, 4, 3, 2),
        (2, 4, 1, 1),
        (1, 4, 3, 1),
        (3, 4, 2, 2),
        (2, 8, 5, 2),
        (4, 4, 3, 3),
    ],
)
def test_a_short_group_keeps_its_share_rounded_up(keep, of, length, kept):
    ((matrix, number),) = NM(keep, of).to_groups(values((length, 5)), DENSE)
    assert matrix.shape == (5, length) and number == kept
    assert NM(keep, of).hard_mask(values((length, 5)), DENSE).sum() == 5 * kept


def test_hard_mask_keeps_the_largest_and_the_first_of_equals():
    weights = np.array([[1, -5, 3, 2, 0, 7], [2, 2, -2, 2, 1, -1]], "float32").T
    mask = NM(2, 4).hard_mask(weights, DENSE)
    assert mask.dtype == bool
    expected = [[0, 1, 1, 0, 0, 1], [1, 1, 0, 0, 1, 0]]
    np.testing.assert_array_equal(mask.T, expected)
    # Sorts that do not keep the order of equals start to move them at such lengths.
    place = np.arange(256)
    mask = NM(160, 256).hard_mask(1.0 + place[:, None] % 2, DENSE)
    np.testing.assert_array_equal(mask[:, 0], (place % 2 == 1) | (place < 64))


def test_merged_input_axes_make_common_groups():
    weights = np.arange(12, dtype="float32").reshape(2, 3, 2)
    (full, _), (short, _) = NM(2, 4).to_groups(weights, ATTENTION_OUTPUT)
    np.testing.assert_array_equal(full, [[0, 2, 4, 6], [1, 3, 5, 7]])
    np.testing.assert_array_equal(short, [[8, 10], [9, 11]])


@settings(max_examples=100, deadline=None)
@given(cuts(), st.integers(1, 5), st.integers(1, 5))
def test_groups_round_trip_and_masks_keep_the_exact_number(cut, a, b):
    _, shape, layout = cut
    nm, weights = NM(min(a, b), max(a, b)), values(shape)
    if not layout.inputs:
        assert "input axis" in nm.supports(shape, layout)
        return
    groups = nm.to_groups(weights, layout)
    back = nm.from_groups([matrix for matrix, _ in groups], shape, layout)
    np.testing.assert_array_equal(back, weights)
    mask = nm.hard_mask(weights, layout)
    lines = {}
    for index in itertools.product(*map(range, shape)):
        place = 0
        for axis in layout.inputs:
            place = place * shape[axis] + index[axis]
        line = tuple(i for axis, i in enumerate(index) if axis not in layout.inputs)
        group = lines.setdefault((*line, place // nm.of), [])
        group.append((abs(weights[index]), mask[index]))
    for group in lines.values():
        kept = sorted((size for size, keep in group if keep), reverse=True)
        assert len(kept) == math.ceil(nm.keep * len(group) / nm.of)
        assert kept == sorted((size for size, _ in group), reverse=True)[: len(kept)]


def test_groups_are_differentiable_under_xla():
    weights = tf.constant(values((3, 3, 6, 4)))

    @tf.function(jit_compile=True)
    def gradient(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            squares = [m**2 for m, _ in NM().to_groups(weights, CONV2D)]
            back = NM().from_groups(squares, weights.shape, CONV2D)
            loss = tf.reduce_sum(back * weights)
        return tape.gradient(loss, weights)

    np.testing.assert_allclose(gradient(weights), 3 * weights**2, rtol=1e-5)


def test_the_mask_of_nm_has_the_shape_of_the_kernel():
    nm, weights = NM(2, 4), values((3, 3, 6, 4))
    assert nm.grid_shape(weights.shape, CONV2D) == weights.shape
    np.testing.assert_array_equal(
        nm.costs(weights.shape, CONV2D), np.ones((3, 3, 6, 4))
    )
    mask = nm.hard_mask(weights, CONV2D)
    product = nm.apply(weights, mask, CONV2D)
    np.testing.assert_array_equal(product, np.where(mask, weights, 0))


def test_what_cannot_be_cut_is_named():
    nm = NM()
    for call in (nm.to_groups, nm.hard_mask):
        with pytest.raises(ValueError, match="2:4 needs a kernel with an input axis"):
            call(values((3, 3, 4, 1)), DEPTHWISE)
    with pytest.raises(ValueError, match="input axis"):
        nm.from_groups([], (3, 3, 4, 1), DEPTHWISE)
    assert nm.supports((3, 3, 4, 1), DEPTHWISE) == "the kernel has no input axis"
    inputs_only = Layout(outputs=(), inputs=(0,))
    assert Channel().supports((4,), inputs_only) == "the kernel has no output axis"
    for structure in (Unstructured(), Block(), Channel(), nm):
        assert structure.supports((4, 4), DENSE) is None
        assert structure.supports((4, 0), DENSE) == "the kernel is empty"
        with pytest.raises(ValueError, match="does not fit a kernel of rank 1"):
            structure.supports((4,), DENSE)
    assert Block().supports((3, 3, 4, 1), DEPTHWISE) is None


# ---- Names and configs


@pytest.mark.parametrize(
    "text, structure",
    [
        ("unstructured", Unstructured()),
        ("16x8", Block((16, 8))),
        ("4x1x3x3", Block((4, 1, 3, 3))),
        ("channel", Channel()),
        ("2:4", NM(keep=2, of=4)),
        ("4:8", NM(4, 8)),
    ],
)
def test_strings_configs_and_objects_name_the_same_structure(text, structure):
    assert structures.get(text) == structure
    assert hash(structures.get(text)) == hash(structure)
    assert str(structure) == text
    assert structures.get(structure) is structure
    config = json.loads(json.dumps(structures.serialize(structure)))
    assert structures.get(config) == structure
    assert structures.deserialize(config) == structure
    assert type(structure).from_config(config["config"]) == structure


def test_structures_of_other_values_differ():
    every = [
        Unstructured(),
        Block((16, 8)),
        Block((8, 16)),
        Channel(),
        NM(2, 4),
        NM(1, 4),
    ]
    assert len(set(every)) == len(every)
    assert structures.get(" 16X8 ") == Block([16, 8])


def test_only_nm_is_not_ranked_across_layers():
    kinds = (Unstructured(), Block(), Channel(), NM())
    assert [kind.is_global for kind in kinds] == [True, True, True, False]


@pytest.mark.parametrize(
    "identifier, error",
    [
        ("16", ValueError),
        ("0x8", ValueError),
        ("16x", ValueError),
        ("4:2", ValueError),
        ("2:4:8", ValueError),
        ("blocks", ValueError),
        ({"class_name": "Rows"}, ValueError),
        ({}, ValueError),
        (16, TypeError),
        (None, TypeError),
        (Block, TypeError),
    ],
)
def test_what_names_no_structure_is_refused(identifier, error):
    with pytest.raises(error, match="Argument `structure` must be .* Received: str"):
        structures.get(identifier)


@pytest.mark.parametrize("shape", [(16,), (16, 0), (16, 8.0), 16, "16x8", (True, 2)])
def test_block_shapes_are_positive_integers(shape):
    with pytest.raises(ValueError, match="Argument `shape` must be two or more"):
        Block(shape)


@pytest.mark.parametrize("keep, of", [(0, 4), (5, 4), (2.0, 4), (2, "4")])
def test_nm_keeps_between_one_and_all(keep, of):
    with pytest.raises(ValueError, match="Arguments `keep` and `of`"):
        NM(keep, of)


@pytest.mark.parametrize(
    "config, words",
    [({"size": [4, 4]}, "'Block' has.*'size'"), ([4, 4], "'Block' has")],
)
def test_a_config_with_settings_of_another_class_is_refused(config, words):
    with pytest.raises(ValueError, match=f"Argument `structure` must be.*{words}"):
        structures.get({"class_name": "Block", "config": config})


@dataclasses.dataclass(frozen=True)
class Pairs(Block):
    """A structure of one's own."""

    shape: tuple = (2, 1)


def test_a_structure_of_ones_own_is_saved_and_loaded(tmp_path):
    assert structures.deserialize(structures.serialize(Pairs())) == Pairs()
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Dense(6, name="dense")(inputs))
    smart_tf.prune(model, 0.5, Pairs()).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("dense").structure == Pairs()
    with pytest.raises(ValueError, match="Argument `structure` must be"):
        structures.deserialize({"class_name": "Triples", "config": {}})


@pytest.fixture
def names(monkeypatch):
    """The classes that are known by name; what a test adds is forgotten."""
    names = dict(structures.STRUCTURES)
    for module in (structures, structures.base):
        monkeypatch.setattr(module, "STRUCTURES", names)
    return names


def test_settings_that_no_field_knows_are_refused_before_anything_is_pruned(names):
    class Initialised(structures.Structure):
        def __init__(self, size=2):
            self.size = size

    class Undecorated(structures.Structure):
        """Without settings, but a model with it could not be saved."""

    class Resized(Block):
        shape: tuple = (4, 4)  # `Block.__init__` would not know of it

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6)])
    for structure in (Initialised(3), Undecorated(), Resized()):
        with pytest.raises(TypeError, match="`structure` must be of a dataclass"):
            smart_tf.prune(model, 0.5, structure)
        assert not smart_tf.flavours.wrappers(model)


def test_a_subclass_without_settings_of_its_own_needs_no_decorator(names):
    class Tiles(Block):
        def __str__(self):
            return "tiles"

    tiles = structures.get(Tiles((2, 4)))
    assert structures.deserialize(structures.serialize(tiles)) == tiles


def test_the_names_of_the_package_cannot_be_taken_and_ones_own_can(names):
    before = dict(names)
    with pytest.raises(ValueError, match="another name.*'Block' is one of smart_tf's"):
        type("Block", (structures.Structure,), {})
    assert names == before
    first, second = (type("Mine", (Block,), {}) for _ in range(2))
    assert names["Mine"] is second is not first


def test_a_grid_with_axes_of_its_own_has_to_say_how_they_are_sorted(names):
    @dataclasses.dataclass(frozen=True)
    class Rows(structures.Structure):
        def grid_shape(self, shape, layout):
            return shape[:1]

    with pytest.raises(NotImplementedError, match="`Rows` must override `oihw`"):
        Rows().oihw(np.ones(4), (4, 5), DENSE)
