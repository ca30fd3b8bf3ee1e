"""The comparison of methods is fair, goes on after a kill, and says what it knows."""

import concurrent.futures
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import smart_tf
from benchmarks import accuracy
from benchmarks.accuracy import config, plots, tables
from benchmarks.accuracy.__main__ import finished, planned, seconds_per_run
from benchmarks.accuracy.recipe import batch_order, batches
from benchmarks.accuracy.rivals.registry import RIVALS
from benchmarks.accuracy.runs import Log, resuming
from benchmarks.accuracy.statistics import check_pairs, paired
from benchmarks.accuracy.study import Standing, Trial, between, study
from benchmarks.accuracy.training import Trainer, build, fit_dense, wrap
from examples.clutter import cluttered
from examples.datasets import Dataset

FOLDER = Path(accuracy.__file__).parent
CONFIGURATIONS = sorted({path.stem for path in FOLDER.glob("*.toml")} - {"common"})
SMALL = """
entrants = ["dense", "smart", "paper", "magnitude", "pas"]
search = { rates = 3 }
seeds = { final = [1, 2, 3] }
training = { batch_size = 16, dense_epochs = 1, epochs = 2, search_share = 0.5 }
[data.toy]
source = "toy"
images = 32
[networks.net]
make = "small_plain"
widths = [4]
dense_rate = 1e-2
rates = [1e-3, 1e-1]
[methods.pas]
values = [1e-3, 3e-3, 1e-2]
[[cells]]
data = "toy"
network = "net"
structure = "4x4"
sparsity = [0.5, 0.7]
tune_at = 0.7
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return config.load(path)


class Pretend:
    """Trains nothing: accuracies as a function of method, rate, knob and seed."""

    LEVELS = {"dense": 0.9, "smart": 0.80, "paper": 0.75, "magnitude": 0.70}

    def __init__(self, dies_after=None, **levels):
        self.runs, self.dies_after = [], dies_after
        self.levels = {**self.LEVELS, "pas": 0.65, **levels}

    def __call__(self, run):
        if len(self.runs) == self.dies_after:
            raise KeyboardInterrupt
        self.runs.append(run)
        off = abs(np.log10(run.rate) + 2) + abs(
            run.settings.get("strength", 0.003) - 0.003
        )
        level = self.levels[run.method] - 0.01 * off
        outcome = {"accuracy_val": level, "checkpoint": f"c{run.seed}", "seconds": 4.0}
        if run.stage == "final":
            bonus = 0.002 * run.seed * (run.method == "smart")
            outcome["accuracy_test"] = level - 0.01 + 0.001 * run.seed + bonus
        if run.pruning:
            outcome["accuracy_before_freeze"] = level - 0.1
            outcome["accuracy_after_freeze"] = level - 0.2
            outcome["sparsity"] = 0.5 + 0.001 * run.seed
            outcome["layers"] = {"stem/kernel": 0.25, "logits/kernel": 0.75}
        return outcome


def toy_data(kind=Dataset):
    rng = np.random.default_rng(0)
    parts = []
    for count in (32, 16, 16):
        parts += [rng.random((count, 8, 8, 1), "float32"), np.arange(count) % 4]
    return kind("toy", *parts)


# The procedure.


def test_after_a_kill_only_what_is_missing_is_run(small, tmp_path):
    whole = Pretend()
    for cell in small.cells:
        study(small, cell, resuming(Log(tmp_path / "whole.jsonl"), whole))
    path = tmp_path / "killed.jsonl"
    first, second = Pretend(dies_after=17), Pretend()
    with pytest.raises(KeyboardInterrupt):
        study(small, small.cells[0], resuming(Log(path), first))
    with path.open("a") as file:
        file.write('{"stage": "tune", "da')  # the kill came in the middle of a line
    log = Log(path)
    for cell in small.cells:
        study(small, cell, resuming(log, second))
    assert [r.key for r in first.runs + second.runs] == [r.key for r in whole.runs]
    assert path.read_text() == (tmp_path / "whole.jsonl").read_text()


def test_side_by_side_the_same_comes_out(small, tmp_path):
    log = Log(tmp_path / "lines.jsonl")
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        execute = resuming(log, Pretend(paper=0.795))
        both = study(small, small.cells[0], execute, threads.map)
    one = study(small, small.cells[0], Pretend(paper=0.795))
    assert [s.trials for s in both.standings] == [s.trials for s in one.standings]
    for standing, other in zip(both.standings, one.standings, strict=True):
        assert standing.mean() == other.mean()
        assert standing.lines.keys() == other.lines.keys()
    written = (tmp_path / "lines.jsonl").read_text().splitlines()
    assert sorted(map(json.dumps, log)) == sorted(written)


def test_another_setting_is_another_run(small, tmp_path):
    log, train = Log(tmp_path / "lines.jsonl"), Pretend()
    study(small, small.cells[0], resuming(log, train))
    before = len(train.runs)
    longer = dataclasses.replace(small, training={**small.training, "epochs": 3})
    study(longer, small.cells[0], resuming(log, train))
    assert len(train.runs) == 2 * before


@pytest.mark.parametrize("name", ["small", *CONFIGURATIONS])
def test_every_method_gets_the_same_number_of_trials(small, name):
    read = small if name == "small" else config.load(FOLDER / f"{name}.toml")
    number = read.search["rates"] + read.search["more_trials"]
    for cell in read.cells:
        result = study(read, cell, lambda run: {"accuracy_val": run.rate})
        for standing in result.standings:
            settings = {(trial.rate, trial.value) for trial in standing.trials}
            assert len(settings) == len(standing.trials) == number


def test_methods_are_tuned_with_a_seed_and_a_sparsity_of_their_own(small):
    train = Pretend()
    for cell in small.cells:
        study(small, cell, train)
    tuning = [run for run in train.runs if run.stage == "tune"]
    assert {run.seed for run in tuning} == {0}
    assert {run.pruning["sparsity"] for run in tuning if run.pruning} == {0.7}
    final = [run for run in train.runs if run.stage == "final"]
    assert {run.seed for run in final} == {1, 2, 3}
    assert {run.rate for run in final} == {0.01}
    assert {run.settings["strength"] for run in final if run.base == "pas"} == {0.003}


def test_close_settings_are_told_apart_by_further_seeds(small):
    """One seed prefers the higher rate of two that are close, two others the lower."""
    curves = {0: [0.795, 0.80, 0.78], 6: [0.79, 0.76, 0.9], 7: [0.79, 0.77, 0.9]}
    runs = []

    def execute(run):
        runs.append(run)
        rates = small.rates(small.cells[0])
        if run.stage == "final" or run.rate not in rates:
            return {"accuracy_val": 0.5}
        return {"accuracy_val": curves[run.seed][rates.index(run.rate)]}

    config = dataclasses.replace(small, seeds={**small.seeds, "retune": [6, 7]})
    smart = study(config, small.cells[0], execute).standings[1]
    assert [len(trial.accuracies) for trial in smart.trials] == [3, 3, 1, 1, 1]
    assert smart.best.rate == small.rates(small.cells[0])[0]
    assert smart.best.accuracy == pytest.approx((0.795 + 0.79 + 0.79) / 3)
    assert {run.rate for run in runs if run.stage == "final"} == {smart.best.rate}
    one_seed = study(small, small.cells[0], execute).standings[1]
    assert one_seed.best.rate == small.rates(small.cells[0])[1]


def test_close_methods_get_more_seeds_and_others_do_not(small):
    result = study(small, small.cells[0], Pretend(paper=0.795))
    seeds = {s.entrant.name: sorted(s.lines) for s in result.standings}
    assert seeds["smart"] == seeds["paper"] == seeds["dense"] == [1, 2, 3, 4, 5]
    assert seeds["magnitude"] == seeds["pas"] == [1, 2, 3]


def test_seeds_that_decide_are_for_the_default_and_its_best_rival(small):
    """Whether they are level or not, and whether the default is ahead or behind."""
    config = dataclasses.replace(small, seeds={**small.seeds, "decide": [8, 9]})

    def decided(**accuracies):
        result = study(config, small.cells[0], Pretend(**accuracies))
        return {s.entrant.name for s in result.standings if {8, 9} <= s.lines.keys()}

    assert decided(paper=0.9, pas=0.72) == {"dense", "smart", "pas"}
    assert decided(smart=0.5, pas=0.6, magnitude=0.7) == {
        "dense",
        "smart",
        "magnitude",
    }
    alone = dataclasses.replace(config, entrants=config.entrants[:3])
    assert [e.name for e in alone.entrants] == ["dense", "smart", "paper"]
    for standing in study(alone, small.cells[0], Pretend()).standings:
        assert not {8, 9} & standing.lines.keys()


def test_a_method_that_cannot_prune_a_structure_is_left_out():
    quick = config.load(FOLDER / "quick.toml")
    left_out = quick.left_out(quick.cells[1])
    assert left_out.keys() == {"magnitude_per_layer", "pdp", "acdc"}
    assert "belong to none of them" in left_out["magnitude_per_layer"]
    assert quick.left_out(quick.cells[0]) == {}


def test_what_is_best_at_the_edge_is_not_bracketed(small):
    pas = small.entrants[-1]

    def at_edge(*trials):
        tried = [Trial(rate, value, (accuracy,)) for rate, value, accuracy in trials]
        return Standing(pas, tried, {}).at_edge()

    start = [(0.001, 0.003, 0.5), (0.01, 0.003, 0.7), (0.1, 0.003, 0.6)]
    assert at_edge(*start) == []
    assert at_edge(*start, (0.01, 0.01, 0.8), (0.01, 0.001, 0.6)) == ["strength"]
    assert at_edge(*start, (0.316, 0.003, 0.71)) == ["rate"]
    assert at_edge((0.001, 0.003, 0.8), *start[1:]) == ["rate"]
    assert at_edge((0.001, 0.003, 0.7), *start[1:]) == ["rate"]  # a tie


def test_further_rates_lie_between_and_beyond_the_end_of_the_grid():
    assert between(0.01, [0.001, 0.01, 0.1], 2) == [0.00316, 0.0316]
    assert between(0.1, [0.001, 0.01, 0.1], 2) == [0.0316, 0.316]
    assert between(0.01, [0.001, 0.01, 0.1], 0) == []


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("[1e-3, 3e-3, 1e-2]", "[1e-3, 1e-2]", "must have search.more_trials"),
        ('network = "net"', 'network = "nut"', "Received: network='nut'"),
        ('"paper"', '"papers"', "Received: entrants='papers'"),
        ("final = [1, 2, 3]", "final = [0, 2, 3]", "no seed twice"),
        ("final = [1, 2, 3]", "retune = [3]", "no seed twice"),
        ("final = [1, 2, 3]", "decide = [5]", "no seed twice"),
        ("rates = 3", "rates = 3, more_trials = 3", "must be even"),
        ("rates = 3", "rates = 2", "must be at least 3"),
        (
            '"pas"]',
            '"tfmot"]\nmethods.tfmot = { training = { restart = true } }',
            "must be false for method 'tfmot'",
        ),
    ],
)
def test_an_unfair_configuration_is_refused(tmp_path, before, after, message):
    path = tmp_path / "unfair.toml"
    path.write_text(SMALL.replace(before, after, 1))
    with pytest.raises(ValueError, match=message):
        config.load(path)


def test_a_study_says_what_is_different_from_what_all_have_in_common(small, tmp_path):
    assert small.seeds == {
        "tune": 0,
        "retune": [],
        "final": [1, 2, 3],
        "more": [4, 5],
        "decide": [],
    }
    pas, paper = small.entrants[-1], small.entrants[2]
    assert (pas.knob, pas.values) == ("strength", [1e-3, 3e-3, 1e-2])
    assert (paper.base, paper.family, paper.knob) == ("paper", "smart", None)
    path = tmp_path / "few.toml"
    path.write_text(SMALL.replace("rates = 3", "rates = 3, more_trials = 0", 1))
    few = config.load(path).entrants[-1]
    assert (few.knob, few.with_knob(None)) == (None, {})  # no trials are left for it


def test_a_method_can_be_trained_in_a_way_of_its_own(tmp_path):
    path = tmp_path / "restart.toml"
    restarting = SMALL.replace("0.5 }", "0.5, restart = true }", 1)
    own = "[methods.steady]\nmethod = 'smart'\ntraining = { restart = false }\n"
    more = restarting.replace("[methods.pas]", own + "[methods.pas]")
    path.write_text(more.replace('"paper"', '"steady"'))
    settings = config.load(path)
    trainer = Trainer(tmp_path / "dense", load=lambda **_: toy_data())
    runs = [
        settings.run("final", settings.cells[0], entrant, 0.1, None, 0)
        for entrant in settings.entrants[1:3]
    ]
    assert [run.training["restart"] for run in runs] == [True, False]
    lines = [trainer(run) for run in runs]
    assert lines[0]["checkpoint"] == lines[1]["checkpoint"]
    assert lines[0]["layers"] == lines[1]["layers"]  # the search is the same
    for key in ("accuracy_before_freeze", "accuracy_after_freeze"):
        assert lines[0][key] == lines[1][key]
    assert len(list((tmp_path / "dense").iterdir())) == 1
    dense = settings.run("tune", settings.cells[0], settings.entrants[0], 0.1, None, 0)
    model, _ = fit_dense(build(dense.network, toy_data()), dense, toy_data())
    rates = [float(model.optimizer._learning_rate(step)) for step in range(4)]
    np.testing.assert_allclose(rates, [0.1, 0.0853553, 0.1, 0.05], rtol=1e-5)


# The plan.


def test_the_plan_is_an_upper_bound(small, tmp_path):
    log, train = Log(tmp_path / "lines.jsonl"), Pretend()
    before = planned(small, small.cells, log)
    assert len(before) == 5 * (5 + 2 * 5) - 5  # the dense network's finals, once
    for cell in small.cells:
        study(small, cell, resuming(log, train))
    assert len({run.key for run in train.runs}) < len(before)
    assert {run.key for run in planned(small, small.cells, log)} == {
        run.key for run in train.runs
    }
    assert seconds_per_run(log) == {("toy", "net"): 4.0}


# One run.


class Counting(Dataset):
    """Data that says how often its test split was looked at."""

    looks = 0

    def __getattribute__(self, name):
        if name in ("x_test", "y_test"):
            Counting.looks += 1
        return super().__getattribute__(name)


def test_tuning_never_looks_at_the_test_split_and_all_start_alike(small, tmp_path):
    data = toy_data(Counting)
    trainer = Trainer(tmp_path / "dense", load=lambda **_: data)
    Counting.looks = 0
    cell, (dense, smart, *_) = small.cells[0], small.entrants
    lines = [
        trainer(small.run("tune", cell, entrant, 0.01, None, 0))
        for entrant in (smart, dense)
    ]
    assert Counting.looks == 0
    assert not any("accuracy_test" in line for line in lines)
    run = small.run("final", cell, smart, 0.01, None, 0)
    lines.append(trainer(run))
    assert Counting.looks == 2
    assert len({line["checkpoint"] for line in lines}) == 1
    # The final run is the tuning run again: same start, same batches, same result.
    for key in ("accuracy_val", "accuracy_before_freeze", "accuracy_after_freeze"):
        assert lines[0][key] == lines[2][key]
    assert lines[2]["sparsity"] == pytest.approx(0.5, abs=0.05)
    assert min(lines[2]["layers"].values()) >= 0
    json.dumps(Log(tmp_path / "lines.jsonl").add(run, lines[2]))


def test_in_hindsight_the_blocks_of_smart_are_there_from_the_start(small, tmp_path):
    trainer = Trainer(tmp_path / "dense", load=lambda **_: toy_data())
    smart = small.entrants[1]
    known = dataclasses.replace(smart, name="known", base="hindsight")
    found, measured = (
        trainer(small.run("final", small.cells[0], entrant, 0.01, None, 0))
        for entrant in (smart, known)
    )
    assert measured["layers"] == found["layers"]
    assert measured["sparsity"] == found["sparsity"]
    assert measured["checkpoint"] == found["checkpoint"]


def test_the_order_of_the_batches_hangs_on_the_seed_only():
    x, y = np.arange(10.0), np.arange(10)

    def order(seed):
        given = batches(x, y, batch_order(len(x), 2, 3, seed))
        return np.array([b.numpy() for b, _ in given])

    assert order(1).shape == (6, 3)
    assert (order(1) == order(1)).all() and (order(1) != order(2)).any()
    assert len(set(order(1)[:3].ravel())) == len(set(order(1)[3:].ravel())) == 9
    assert all(
        (b.numpy() == labels.numpy()).all()
        for b, labels in batches(x, y, batch_order(len(x), 1, 5, 0))
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_method_can_prune_in_every_cell_that_it_enters(name):
    read = config.load(FOLDER / f"{name}.toml")
    sides = {"fashion": 28, "cluttered": 36}
    for cell in read.cells:
        images = np.zeros((1, sides[cell.data], sides[cell.data], 1))
        data = Dataset(cell.data, images, np.array([9]), *[None] * 4)
        model = None
        for entrant in read.entrants:
            run = read.run("tune", cell, entrant, 0.01, entrant.start, 0)
            model = model or build(run.network, data)
            ours = run.pruning and entrant.base not in RIVALS
            if ours and entrant.name not in read.left_out(cell):
                smart_tf.strip_pruning(wrap(model, run))


# What is made of the lines.

GOLDEN = """\
| method | test | seeds | sparsity | validation | before freeze | after freeze | \
minus best rival [95 %] | rate | knob | not bracketed |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| dense | 89.20 ± 0.10 | 3 | - | 90.00 ± 0.00 | - | - | - | 0.01 | - | - |
| smart | 79.60 ± 0.30 | 3 | 50.10 | 80.00 ± 0.00 | 70.00 ± 0.00 | 60.00 ± 0.00 | \
magnitude +10.40 [+9.90, +10.90] | 0.01 | - | - |
| paper | 74.20 ± 0.10 | 3 | 50.10 | 75.00 ± 0.00 | 65.00 ± 0.00 | 55.00 ± 0.00 | \
magnitude +5.00 [+5.00, +5.00] | 0.01 | - | - |
| magnitude | 69.20 ± 0.10 | 3 | 50.10 | 70.00 ± 0.00 | 60.00 ± 0.00 | 50.00 ± 0.00 | \
smart -10.40 [-10.90, -9.90] | 0.01 | - | - |
| pas | 64.20 ± 0.10 | 3 | 50.10 | 65.00 ± 0.00 | 55.00 ± 0.00 | 45.00 ± 0.00 | \
smart -15.40 [-15.90, -14.90] | 0.01 | strength 0.003 | - |
"""


def test_the_table_of_known_lines(small):
    result = study(small, small.cells[0], Pretend())
    assert tables.cell_table(result) == GOLDEN
    row = tables.overview([result]).splitlines()[2]
    assert row == (
        "| toy net: 4x4 50% | 89.20 | **79.60\\*** | 74.20\\* | 69.20\\* | 64.20\\* |"
    )


def test_cells_ahead_and_behind_are_counted(small):
    """SMART is ahead for sure, ahead by a seed of three, and behind for sure."""

    def result(magnitude, unsteady):
        def execute(run):
            outcome = Pretend(magnitude=magnitude)(run)
            if run.method == "magnitude" and run.stage == "final":
                outcome["accuracy_test"] += unsteady * (run.seed - 2)
            return outcome

        return study(small, small.cells[0], execute)

    results = [result(0.70, 0.0), result(0.79, 0.05), result(0.90, 0.0)]
    header, _, row = tables.counts(results).splitlines()
    assert header == "| structure | cells | smart | paper | magnitude | pas |"
    assert row.startswith("| 4x4 | 3 | 2 (1) : 1 (1) |")


def test_intervals_are_those_of_a_paired_t_test():
    from scipy import stats

    a, b = [0.81, 0.84, 0.80, 0.86], [0.80, 0.80, 0.81, 0.82]
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert paired(a, b) == pytest.approx((0.02, expected.low, expected.high))


def test_cells_are_shown_when_they_are_whole(small, tmp_path):
    log = Log(tmp_path / "lines.jsonl")
    study(small, small.cells[0], resuming(log, Pretend()))
    results, missing = finished(small, small.cells, log)
    assert [r.cell for r in results] == small.cells[:1]
    assert missing == small.cells[1:]
    text = tables.document("Title", results, missing)
    assert "## Not finished\n\n- toy net: 4x4 70%" in text
    paths = plots.draw(results, tmp_path / "plots")
    assert [p.name for p in paths] == [
        "accuracy_toy_net_4x4.png",
        "layers_toy_net_4x4_50.png",
    ]
    assert all(path.stat().st_size > 5000 for path in paths)


def test_dense_networks_alone_have_a_table_and_no_pictures(small, tmp_path):
    dense = small.only("dense")
    results = [study(dense, dense.cells[0], Pretend())]
    text = tables.document("Title", results, [])
    assert "| toy net: 4x4 50% | 89.20 |" in text and "Ahead" not in text
    assert plots.draw(results, tmp_path / "plots") == []


def test_runs_that_did_not_start_alike_are_not_compared(small):
    result = study(small, small.cells[0], Pretend())
    result.standings[1].lines[2]["checkpoint"] = "another"
    with pytest.raises(ValueError, match=r"one checkpoint. Received: \{2:"):
        check_pairs(result)


# The harder data.


def test_cluttered_garments_are_made_alike_every_time():
    rng = np.random.default_rng(0)
    parts = []
    for count in (40, 20, 30):
        garments = np.zeros((count, 28, 28, 1), "float32")
        garments[:, 4:24, 6:22] = rng.uniform(0.2, 1, (count, 20, 16, 1))
        parts += [garments, np.arange(count)]
    plain = Dataset("garments", *parts)
    before = plain.x_train.copy()
    one, again, other = cluttered(plain), cluttered(plain), cluttered(plain, seed=1)
    assert one.name == "cluttered_garments" and one.input_shape == (36, 36, 1)
    assert (plain.x_train == before).all()
    for split in ("train", "val", "test"):
        x = getattr(one, f"x_{split}")
        assert x.dtype == np.float32 and 0 <= x.min() and x.max() <= 1
        assert (x == getattr(again, f"x_{split}")).all()
        assert (x != getattr(other, f"x_{split}")).any()
        assert (getattr(one, f"y_{split}") == getattr(plain, f"y_{split}")).all()
        # Garments differ in size; patches fill at most 6 * 64 of 1,296 pixels.
        filled = (x > 0).sum((1, 2, 3))
        assert filled.max() <= 32**2 + 384 and np.ptp(filled) > 200
