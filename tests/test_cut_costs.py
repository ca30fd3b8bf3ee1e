"""What a model costs when it is cut, and the choice of channels within a budget."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_tf.cut_costs import CutCosts


def flat(sizes, prices, units=None, fixed=0.0):
    """Groups that cost a price for every channel, and something that stays."""
    widths = [(1.0, ()), *((0.0, ((g, 1.0),)) for g in range(len(sizes)))]
    terms = [(float(price), g + 1, 0) for g, price in enumerate(prices)]
    terms += [(fixed, 0, 0)] if fixed else []
    units = units or (1,) * len(sizes)
    return CutCosts(tuple(sizes), tuple(units), tuple(widths), tuple(terms))


def chain():
    """Inputs of 3, two hidden layers of 4 and 6, 2 outputs, no biases.

    The second is read twice (as after `Flatten` of two positions).
    """
    widths = ((1.0, ()), (0.0, ((0, 1.0),)), (0.0, ((1, 1.0),)), (0.0, ((1, 2.0),)))
    terms = ((3.0, 1, 0), (1.0, 1, 2), (2.0, 3, 0))
    return CutCosts((4, 6), (1, 1), widths, terms)


def kept(costs, keep):
    """How many channels of each group stay."""
    return [int(part.sum()) for part in np.split(keep, np.cumsum(costs.sizes)[:-1])]


def test_both_sides_of_a_kernel_shrink():
    costs = chain()
    assert costs.total() == 3 * 4 + 4 * 6 + 12 * 2
    assert costs.total([2, 3]) == 3 * 2 + 2 * 3 + 6 * 2
    assert costs.total([0, 0]) == 0


def test_the_quadratic_form_is_the_cost():
    costs = CutCosts(
        (4, 6, 5),
        (1, 1, 1),
        ((1.0, ()), (2.0, ((0, 1.0), (2, 3.0))), (0.5, ((1, 1.0),))),
        ((3.0, 1, 2), (2.0, 1, 1), (7.0, 0, 0)),
    )
    matrix, vector, constant = costs.quadratic()
    for k in np.random.default_rng(0).integers(0, 5, (5, 3)):
        # 3 (2 + k0 + 3 k2)(.5 + k1) + 2 (2 + k0 + 3 k2)^2 + 7
        width = 2 + k[0] + 3 * k[2]
        expected = 3 * width * (0.5 + k[1]) + 2 * width**2 + 7
        assert costs.total(k) == pytest.approx(expected)
        assert k @ matrix @ k + vector @ k + constant == pytest.approx(expected)


def test_it_survives_json():
    costs = chain()
    assert CutCosts.from_config(json.loads(json.dumps(costs.get_config()))) == costs


def test_the_best_channels_within_the_budget():
    costs = flat([3, 3], [1, 2])
    scores = np.array([0.9, 0.1, 0.5, 0.8, 0.7, 0.2])
    # One of each group for 3, then .7 for 2 and .5 for 1; .2 and .1 no longer fit.
    keep = costs.select(scores, 6, [1, 1])
    assert keep.tolist() == [True, False, True, True, True, False]


def test_a_step_that_still_fits_is_taken_after_one_that_does_not():
    costs = flat([2, 2], [1, 5])
    scores = np.array([0.9, 0.1, 0.8, 0.7])
    keep = costs.select(scores, 8, [1, 1])  # 6 for the floors; .7 would cost 5 more
    assert keep.tolist() == [True, True, True, False]


def test_ties_are_broken_by_the_index():
    costs = flat([3, 3], [1, 1])
    keep = costs.select(np.ones(6), 3, [1, 1])
    assert keep.tolist() == [True, True, False, True, False, False]


def test_floors_hold_whatever_the_scores():
    costs = flat([4, 4], [1, 1])
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.1, 0.2, 0.3, 0.4])
    assert kept(costs, costs.select(scores, 5, [1, 3])) == [2, 3]
    assert kept(costs, costs.select(scores, 5, [1, 0])) == [4, 1]  # never empty


def test_groups_are_cut_in_steps_of_their_unit():
    costs = flat([10, 4], [1, 1], units=[4, 1])
    scores = np.concatenate([np.linspace(1, 0.9, 10), [0.5, 0.4, 0.3, 0.2]])
    found = [kept(costs, costs.select(scores, b, [1, 1]))[0] for b in range(5, 15)]
    assert found == [4, 4, 4, 4, 8, 8, 10, 10, 10, 10]


def test_a_floor_is_rounded_up_to_the_unit():
    costs = flat([8], [1], units=[4])
    assert kept(costs, costs.select(np.arange(8.0), 5, [1])) == [4]
    assert kept(costs, costs.select(np.arange(8.0), 8, [5])) == [8]


def test_a_budget_below_the_floors_is_refused():
    costs = flat([4, 4], [1, 2], fixed=10.0)
    with pytest.raises(ValueError, match="cannot be met.*cost 13 of 22.*budget is 12"):
        costs.select(np.arange(8.0), 12, [1, 1])
    assert kept(costs, costs.select(np.arange(8.0), 13, [1, 1])) == [1, 1]


@pytest.mark.parametrize("unit, advised", [(1, False), (4, True)])
def test_a_finer_unit_is_advised_where_there_is_one(unit, advised):
    costs = flat([8], [1], units=[unit])
    with pytest.raises(ValueError, match="`max_layer_sparsity`") as raised:
        costs.select(np.arange(8.0), 0.5, [1])
    assert ("finer `round_to`" in str(raised.value)) == advised


def test_the_whole_model_fits_into_its_own_cost():
    costs = chain()
    assert costs.select(np.arange(10.0), costs.total(), [1, 1]).all()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_more_than_the_budget_and_no_step_left_that_fits(data):
    groups = data.draw(st.integers(1, 4))
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=groups, max_size=groups))
    units = data.draw(st.lists(st.integers(1, 4), min_size=groups, max_size=groups))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    widths = [(1.0, ())]
    for _ in range(groups + 1):
        row = tuple((g, 1.0) for g in range(groups) if rng.random() < 0.6)
        widths.append((float(rng.integers(0, 3)), row))
    terms = [
        (float(rng.integers(1, 5)), *rng.integers(0, len(widths), 2).tolist())
        for _ in range(6)
    ]
    costs = CutCosts(tuple(sizes), tuple(units), tuple(widths), tuple(terms))
    scores = rng.normal(size=sum(sizes)).round(1)
    least = [min(size, unit) for size, unit in zip(sizes, units, strict=True)]
    share = data.draw(st.floats(0, 1))
    budget = costs.total(least) + share * (costs.total() - costs.total(least))
    keep = costs.select(scores, budget, [1] * groups)
    found = np.array(kept(costs, keep))
    assert costs.total(found) <= budget * (1 + 1e-6)
    starts = np.cumsum((0, *sizes))
    for group, (size, unit) in enumerate(zip(sizes, units, strict=True)):
        assert found[group] == size or found[group] % unit == 0
        part = slice(starts[group], starts[group + 1])
        if 0 < found[group] < size:  # the best of each group stay
            assert scores[part][keep[part]].min() >= scores[part][~keep[part]].max()
            more = found.copy()
            more[group] = min(size, found[group] + unit)
            assert costs.total(more) > budget
