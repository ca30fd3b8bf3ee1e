"""Markdown tables of finished cells."""

import statistics

from benchmarks.accuracy.config import DENSE
from benchmarks.accuracy.statistics import to_best_rival
from benchmarks.record import markdown_table

HEADER = [
    "method",
    "test",
    "seeds",
    "sparsity",
    "validation",
    "before freeze",
    "after freeze",
    "minus best rival [95 %]",
    "rate",
    "knob",
    "not bracketed",
]
NOTES = """\
Accuracies in percent, mean ± standard deviation over seeds; `sparsity`: the lowest of
any seed. `before freeze` and `after freeze`: validation accuracy at the end of the
search, with soft and with hard masks. The best rival is the method of another family
with the highest mean test accuracy; differences are paired by seed, with intervals of
Student's t. `not bracketed`: the best rate or knob was the smallest or the largest that
was tried. In the overview, \\*: the interval does not contain 0; a dash with a number:
why the method cannot prune what the cell asks for.
"""
COUNTED = """\
In how many cells a method is ahead of its best rival and in how many behind; in
brackets, those whose interval does not contain 0.
"""


def document(title, results, missing):
    """All tables.

    Args:
        title: String.
        results: List of `Result`.
        missing: List of the `Cell`s that are not finished.

    Returns:
        String in Markdown.
    """
    parts = [f"# {title}\n", NOTES]
    if results:
        parts += ["## Overview\n", overview(results)]
    if any(result.pruned for result in results):
        parts += ["## Ahead and behind\n", COUNTED, counts(results)]
    for result in results:
        parts += [f"## {result.cell}\n", cell_table(result)]
    if missing:
        parts += ["## Not finished\n", "".join(f"- {cell}\n" for cell in missing)]
    return "\n".join(parts)


def overview(results):
    """One row for each cell, one column for each method: mean test accuracy.

    The best method is bold. Beneath it is why methods are missing from cells.
    """
    names = _methods(results)
    reasons = {}
    for result in results:
        for name, reason in result.left_out.items():
            if name in names:
                reasons.setdefault(reason, {})[name] = None
    numbers = {reason: number for number, reason in enumerate(reasons, 1)}
    rows = [_overview_row(result, names, numbers) for result in results]
    notes = [
        f"{numbers[reason]}. {', '.join(missing)}: {reason}\n"
        for reason, missing in reasons.items()
    ]
    table = markdown_table(["cell", *names], rows)
    return "\n".join([table, "".join(notes)]) if notes else table


def _methods(results):
    """List of the names of all methods, as the cell with most of them has them."""
    widest_first = sorted(results, key=lambda result: -len(result.standings))
    return list(
        dict.fromkeys(s.entrant.name for r in widest_first for s in r.standings)
    )


def counts(results):
    """One row for each kind of structure, one column for each method."""
    kinds = {}
    for result in results:
        kinds.setdefault(result.cell.what, []).append(result)
    names = [name for name in _methods(results) if name != DENSE]
    rows = [
        [what, len(some), *(_ahead_and_behind(some, name) for name in names)]
        for what, some in kinds.items()
    ]
    return markdown_table(["structure", "cells", *names], rows)


def _ahead_and_behind(results, name):
    """String: how often a method is ahead and behind; in brackets what is shown."""
    standings = [(s, r) for r in results for s in r.standings]
    found = [
        to_best_rival(s, r.standings) for s, r in standings if s.entrant.name == name
    ]
    found = [difference for difference in found if difference]
    if not found:
        return "-"
    ahead, behind = sum(d.mean > 0 for d in found), sum(d.mean < 0 for d in found)
    shown, refuted = sum(d.low > 0 for d in found), sum(d.high < 0 for d in found)
    return f"{ahead} ({shown}) : {behind} ({refuted})"


def _overview_row(result, names, numbers):
    means = {s.entrant.name: s.mean() for s in result.standings}
    best = max((s.entrant.name for s in result.pruned), key=means.get, default=None)
    shown = {name: f"{100 * mean:.2f}" for name, mean in means.items()}
    for standing in result.pruned:
        difference = to_best_rival(standing, result.standings)
        if difference and not difference.low <= 0 <= difference.high:
            shown[standing.entrant.name] += "\\*"
    if best:
        shown[best] = f"**{shown[best]}**"
    for name, reason in result.left_out.items():
        shown[name] = f"- ({numbers.get(reason)})"
    return [str(result.cell), *(shown.get(name, "-") for name in names)]


def cell_table(result):
    """One row for each method, the best first."""
    standings = sorted(result.standings, key=lambda s: -s.mean())
    return markdown_table(HEADER, [_row(s, result.standings) for s in standings])


def _row(standing, standings):
    lines = standing.lines.values()
    difference = to_best_rival(standing, standings)
    best, knob = standing.best, standing.entrant.knob
    shown = "-"
    if difference:
        numbers = (difference.mean, difference.low, difference.high)
        mean, low, high = (f"{100 * number:+.2f}" for number in numbers)
        shown = f"{difference.rival} {mean} [{low}, {high}]"
    return [
        standing.entrant.name,
        _spread([line["accuracy_test"] for line in lines]),
        len(lines),
        _least([line["sparsity"] for line in lines if "sparsity" in line]),
        *(
            _spread([line[key] for line in lines if key in line])
            for key in (
                "accuracy_val",
                "accuracy_before_freeze",
                "accuracy_after_freeze",
            )
        ),
        shown,
        f"{best.rate:g}",
        f"{knob} {best.value:g}" if knob else "-",
        ", ".join(standing.at_edge()) or "-",
    ]


def _least(sparsities):
    """The lowest sparsity of any seed, in percent."""
    return f"{100 * min(sparsities):.2f}" if sparsities else "-"


def _spread(values):
    """Mean and standard deviation in percent."""
    if not values:
        return "-"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * deviation:.2f}"
