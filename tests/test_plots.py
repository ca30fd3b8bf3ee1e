"""What the pictures show: the data in them, not their looks."""

import types

import numpy as np
import pytest

from smart_tf import plots
from smart_tf.report import KernelReport, PruningReport


def report(*sparsities, model=""):
    kernels = [
        KernelReport(f"{model}conv_{i}/kernel", (10, 10), 100, int(100 * s))
        for i, s in enumerate(sparsities)
    ]
    return PruningReport("net", "frozen", "2x2", kernels, {}, 1000)


def marks(axes):
    """Dict from the label of each line to its points."""
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_one_report_is_a_bar_for_each_kernel():
    axes = plots.sparsity_by_layer(report(0.5, 0.7, 0.9)).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [50, 70, 90]
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        *("conv_0", "conv_1", "conv_2")
    ]
    assert axes.lines[0].get_xdata()[0] == pytest.approx(70)  # all of them
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # from the top down


def test_several_reports_are_marks_in_the_same_rows():
    reports = {"smart": report(0.5, 0.9), "pdp": {"conv_0/kernel": 0.6}}
    reports["pdp"]["conv_1/kernel"] = 0.8
    figure = plots.sparsity_by_layer(reports)
    points = marks(figure.axes[0])
    np.testing.assert_allclose(points["smart"][:, 0], [50, 90])
    np.testing.assert_allclose(points["pdp"][:, 0], [60, 80])
    for found in points.values():
        np.testing.assert_array_equal(np.round(found[:, 1]), [0, 1])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["smart", "pdp"]


def test_the_same_network_under_two_names_is_the_same():
    reports = {k: report(0.5, 0.7, model=f"{k}/") for k in ("net_1", "net_2")}
    axes = plots.sparsity_by_layer(reports).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["conv_0", "conv_1"]


def test_a_network_of_one_kernel_may_have_two_names_too():
    reports = {k: report(0.5, model=f"{k}/") for k in ("net_1", "net_2")}
    axes = plots.sparsity_by_layer(reports).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["conv_0"]
    axes = plots.sparsity_by_layer({"smart": {"conv_0/kernel": 0.5}}).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["conv_0"]


@pytest.mark.parametrize("reports", [[report(0.5)], {"smart": [0.5]}, {"conv_0": 0.5}])
def test_what_is_no_report_is_refused(reports):
    with pytest.raises(TypeError, match="`reports` must be a `PruningReport`, or a"):
        plots.sparsity_by_layer(reports)


def test_networks_without_kernels_are_not_drawn():
    with pytest.raises(ValueError, match="`reports` must be of a model with kernels"):
        plots.sparsity_by_layer(report())
    comparison = types.SimpleNamespace(widths={})
    with pytest.raises(ValueError, match="`comparison` must be of a model with"):
        plots.channel_widths(comparison)


def test_reports_of_different_networks_are_refused():
    with pytest.raises(ValueError, match="same kernels"):
        plots.sparsity_by_layer({"a": report(0.5), "b": report(0.5, 0.7)})
    with pytest.raises(ValueError, match="at least one report"):
        plots.sparsity_by_layer({})


def test_widths_before_and_after():
    comparison = types.SimpleNamespace(
        widths={"a/kernel": (64, 24), "b/kernel": (8, 8)}
    )
    axes = plots.channel_widths(comparison).axes[0]
    before, after = axes.containers
    assert [bar.get_width() for bar in before] == [64, 8]
    assert [bar.get_width() for bar in after] == [24, 8]


POINTS = [
    {"method": "smart", "sparsity": 0.9, "accuracy": 0.80, "bytes": 3000},
    {"method": "smart", "sparsity": 0.9, "accuracy": 0.84, "bytes": 1000},
    {"method": "smart", "sparsity": 0.5, "accuracy": 0.90, "bytes": 9000},
    {"method": "pas", "sparsity": 0.5, "accuracy": 0.88, "bytes": 8000},
    {"method": "dense", "sparsity": 0.0, "accuracy": 0.92, "bytes": 20000},
]


def test_seeds_become_a_mean_with_their_standard_deviation():
    axes = plots.tradeoff(POINTS).axes[0]
    smart, pas = axes.containers
    np.testing.assert_allclose(smart[0].get_xydata(), [[50, 90], [90, 82]])
    bars = smart[2][0].get_segments()
    deviation = 100 * np.std([0.80, 0.84], ddof=1)
    np.testing.assert_allclose(bars[0][:, 1], [90, 90])  # one seed: no bar
    np.testing.assert_allclose(bars[1][:, 1], [82 - deviation, 82 + deviation])
    np.testing.assert_allclose(pas[0].get_xydata(), [[50, 88]])
    assert axes.get_xlabel() == "weights that are zero, %"


@pytest.mark.parametrize("x", ["sparsity", "bytes"])
def test_all_marks_are_inside_of_the_picture(x):
    axes = plots.tradeoff(POINTS, x=x).axes[0]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for container in axes.containers:
        for across, up in container[0].get_xydata():
            assert left < across < right and low < up < high


def test_one_dense_model_is_a_line_across():
    axes = plots.tradeoff(POINTS).axes[0]
    across = [line for line in axes.lines if line.get_label() == "dense"]
    assert [list(line.get_ydata()) for line in across] == [[92, 92]]


def test_seeds_of_different_bytes_belong_together_by_their_sparsity():
    axes = plots.tradeoff(POINTS, x="bytes", by="sparsity").axes[0]
    np.testing.assert_allclose(axes.containers[0][0].get_xydata(), [[2, 82], [9, 90]])
    assert axes.get_xlabel() == "file, kB"
    apart = plots.tradeoff(POINTS, x="bytes").axes[0].lines
    assert max(len(line.get_xdata()) for line in apart) == 3


def test_points_without_what_is_drawn_are_refused():
    with pytest.raises(ValueError, match="latency.*Received: one without"):
        plots.tradeoff(POINTS, x="latency")
    with pytest.raises(ValueError, match="no point"):
        plots.tradeoff([])


def history(*phases):
    """Masks of two kernels, the first of 2 x 3 blocks at 2 x 1 positions."""
    count = len(phases)
    rng = np.random.default_rng(0)
    return types.SimpleNamespace(
        updates=[10 * (i + 1) for i in range(count)],
        phases=list(phases),
        temperatures=[0.5**i for i in range(count)],
        masks={
            "conv_1/kernel": [rng.random((2, 3, 2, 1), "float32") for _ in phases],
            "conv_10/kernel": [np.ones((4, 1, 1, 1), "float16") for _ in phases],
        },
    )


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def test_a_mask_is_a_map_at_each_kernel_position():
    recorded = history("searching")
    (panel,) = panels(plots.mask_map(recorded, "conv_1/kernel"))
    mask = recorded.masks["conv_1/kernel"][0]
    above, below = mask[:, :, 0, 0], mask[:, :, 1, 0]
    shown = np.asarray(panel.images[0].get_array())
    np.testing.assert_allclose(shown, np.concatenate([above, below]))
    assert panel.images[0].get_interpolation() == "nearest"  # no block is smeared


def test_moments_are_taken_from_the_search():
    phases = 5 * ["dense"] + 4 * ["searching"] + 5 * ["frozen"]
    figure = plots.mask_map(history(*phases), "conv_10")
    titles = [panel.get_title().split("\n")[0] for panel in panels(figure)]
    assert titles == [f"update {k}" for k in (50, 60, 70, 80, 90, 100)]
    figure = plots.mask_map(history(*phases), "conv_10", moments=[0, 13])
    assert [p.get_title() for p in panels(figure)] == [
        "update 10\ndense",
        "update 140\nfrozen",
    ]


def test_the_histogram_counts_all_blocks_at_each_moment():
    recorded = history("dense", "searching", "searching", "frozen")
    upper, lower = plots.mask_histogram(recorded).axes[:2]
    shares = upper.collections[0].get_array()  # levels x moments
    np.testing.assert_allclose(shares.sum(0), 1)
    assert shares[-1].min() >= 4 / (6 * 2 + 4)  # those of the second kernel
    (line, *_) = lower.lines
    np.testing.assert_allclose(line.get_xydata(), [[10, 1], [20, 0.5], [30, 0.25]])


@pytest.mark.parametrize("moments", [[0, 3, 20], [], 0, 2.5])
def test_moments_must_have_been_recorded(moments):
    with pytest.raises(ValueError, match="`moments` must be .* of the 2 moments"):
        plots.mask_map(history("searching", "frozen"), "conv_10", moments=moments)
    count = len(panels(plots.mask_map(history("searching"), "conv_10", np.int64(3))))
    assert count == 1


def test_long_names_leave_room_for_the_picture():
    name = "encoder/multi_head_self_attention_with_relative_positions/{}/projection"
    shares = {name.format(k): 0.5 for k in range(3)}
    methods = {f"method number {k} with a long name": shares for k in range(9)}
    figure = plots.sparsity_by_layer(methods)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_position().width > 0.5
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_words_of_phases_and_numbers_of_temperatures_can_be_read():
    recorded = history("dense", "searching", *["frozen"] * 40)
    recorded.temperatures = [2.8, 2.2, *[2.2] * 40]
    figure = plots.mask_histogram(recorded)
    figure.draw_without_rendering()
    upper, lower = figure.axes[:2]
    first, second = (text.get_window_extent() for text in upper.texts)
    assert not first.overlaps(second)
    ticks = [*lower.get_yticklabels(), *lower.get_yticklabels(minor=True)]
    bounds = lower.get_window_extent()
    boxes = [t.get_window_extent() for t in ticks if t.get_text() and t.get_visible()]
    assert any(bounds.y0 <= box.y0 and box.y1 <= bounds.y1 for box in boxes)


@pytest.mark.parametrize("layer", ["conv", "dense"])
def test_a_layer_must_be_one_kernel(layer):
    with pytest.raises(ValueError, match="which (2|0) have"):
        plots.mask_map(history("searching"), layer)


def test_an_empty_history_is_refused():
    with pytest.raises(ValueError, match="without any moment"):
        plots.mask_histogram(history())
    with pytest.raises(ValueError, match="without any moment"):
        plots.mask_map(history(), "conv_10")


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: plots.sparsity_by_layer(report(0.5), path),
        lambda path: plots.tradeoff(POINTS, path=path),
        lambda path: plots.mask_map(history("searching"), "conv_10", path=path),
        lambda path: plots.mask_histogram(history("searching"), path=path),
    ],
)
def test_pictures_are_written_whole_or_not_at_all(draw, tmp_path):
    draw(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    draw(tmp_path / "picture.svg")
    assert b"<svg" in (tmp_path / "picture.svg").read_bytes()
    for name in ("picture.docx", "picture"):
        with pytest.raises(ValueError, match=r"`path` must end in .*\.png.*\.svg"):
            draw(tmp_path / name)
    with pytest.raises(ValueError, match="folder that exists"):
        draw(tmp_path / "nowhere" / "picture.png")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["picture.png", "picture.svg"]


def test_no_two_methods_look_the_same():
    figure = plots.sparsity_by_layer({f"method {i}": {"a": 0.1 * i} for i in range(10)})
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(looks) == 10
