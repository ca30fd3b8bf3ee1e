"""The procedure: tune every method alike, then run it with several seeds."""

import dataclasses

import numpy as np

from benchmarks.accuracy.config import DENSE, Cell, Entrant


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting and its validation accuracies.

    Attributes:
        rate: Float.
        value: What the knob was set to, or None.
        accuracies: Tuple of floats, one for each seed that it was tried with.
    """

    rate: float
    value: float | None
    accuracies: tuple

    @property
    def accuracy(self):
        """Float: the mean over the seeds."""
        return float(np.mean(self.accuracies))


@dataclasses.dataclass(frozen=True)
class Standing:
    """How a method did in a cell.

    Attributes:
        entrant: `Entrant`.
        trials: List of `Trial`.
        lines: Dict from the seeds to the lines of the final runs.
    """

    entrant: Entrant
    trials: list
    lines: dict

    @property
    def best(self):
        """The `Trial` of the highest validation accuracy among those with most seeds;
        of equal ones the first."""
        return max(self.trials, key=lambda t: (len(t.accuracies), t.accuracy))

    def mean(self, key="accuracy_test", seeds=None):
        """Mean over seeds (all by default) of one entry of the lines."""
        seeds = self.lines if seeds is None else seeds
        return float(np.mean([self.lines[seed][key] for seed in seeds]))

    def at_edge(self):
        """List of what was best at the edge of what was tried: it is not bracketed."""
        best = self.best
        rates = [trial.rate for trial in self.trials]
        values = [trial.value for trial in self.trials]
        found = ["rate"] if best.rate in (min(rates), max(rates)) else []
        if len(set(values)) > 1 and best.value in (min(values), max(values)):
            found.append(self.entrant.knob)
        return found


@dataclasses.dataclass(frozen=True)
class Result:
    """How a cell came out.

    Attributes:
        cell: `Cell`.
        standings: List of `Standing`s.
        left_out: Dict from the methods that cannot prune what it asks for to why.
    """

    cell: Cell
    standings: list
    left_out: dict

    @property
    def pruned(self):
        """List of the `Standing`s of methods that prune; all but the dense network."""
        return [s for s in self.standings if s.entrant.base != DENSE]


def study(config, cell, execute, each=map):
    """Compares all methods that can prune what a cell asks for.

    Args:
        config: `Config`.
        cell: `Cell`.
        execute: Function from a `Run` to its line.
        each: Function like `map`, for calls that may happen side by side.

    Returns:
        `Result`.
    """
    left_out = config.left_out(cell)
    entrants = [e for e in config.entrants if e.name not in left_out]
    trials = list(each(lambda e: tune(config, cell, e, execute), entrants))
    standings = [Standing(e, t, {}) for e, t in zip(entrants, trials, strict=True)]
    _run_finals(config, cell, standings, config.seeds["final"], execute, each)
    close = contenders(standings, config.margin)
    _run_finals(config, cell, close, config.seeds["more"], execute, each)
    first = leaders(standings)
    _run_finals(config, cell, first, config.seeds["decide"], execute, each)
    return Result(cell, standings, left_out)


def tune(config, cell, entrant, execute):
    """Tries settings of a method, as many as of any other.

    Those that are close to the best one, if any are, are told apart by further seeds.

    Returns:
        List of `Trial`.
    """

    def accuracies(rate, value, seeds):
        runs = (
            config.run("tune", cell.tuned, entrant, rate, value, seed) for seed in seeds
        )
        return tuple(execute(run)["accuracy_val"] for run in runs)

    def tried(rate, value):
        return Trial(rate, value, accuracies(rate, value, [config.seeds["tune"]]))

    def retried(trial):
        more = accuracies(trial.rate, trial.value, config.seeds["retune"])
        return Trial(trial.rate, trial.value, trial.accuracies + more)

    rates = config.rates(cell)
    trials = [tried(rate, entrant.start) for rate in rates]
    best = Standing(entrant, trials, {}).best.rate
    if entrant.knob:
        others = [value for value in entrant.values if value != entrant.start]
        trials += [tried(best, value) for value in others]
    else:
        more = between(best, rates, config.search["more_trials"])
        trials += [tried(rate, None) for rate in more]
    enough = max(trial.accuracy for trial in trials) - config.margin
    close = [trial for trial in trials if trial.accuracy >= enough]
    if len(close) < 2:
        return trials
    return [retried(trial) if trial in close else trial for trial in trials]


def between(best, rates, count):
    """Rates between the best one and both of its neighbours on the grid.

    At an end of the grid, half of them are beyond it.

    Args:
        best: Float, one of `rates`.
        rates: List of floats, in equal ratios.
        count: Even integer, how many.

    Returns:
        List of floats.
    """
    ratio = rates[1] / rates[0]
    shares = [step / (count // 2 + 1) for step in range(1, count // 2 + 1)]
    factors = [ratio ** (sign * share) for share in shares for sign in (-1, 1)]
    return [float(f"{best * factor:.3g}") for factor in factors]


def contenders(standings, margin):
    """The methods within `margin` of the best one in validation accuracy.

    The test split has no say in who gets more seeds.

    Returns:
        List of `Standing`s; empty if the best one is ahead of all others. The dense
        network competes with nobody, but is measured along with them.
    """
    means = {
        s.entrant.name: s.mean("accuracy_val")
        for s in standings
        if s.entrant.base != DENSE
    }
    close = {
        name for name, mean in means.items() if mean >= max(means.values()) - margin
    }
    if len(close) < 2:
        return []
    return [s for s in standings if s.entrant.name in close or s.entrant.base == DENSE]


def leaders(standings):
    """The first method of the file, which is the default, and its best rival.

    That is the method of another family with the best validation accuracy.

    Returns:
        List of `Standing`s; empty without a rival. The dense network is measured along
        with them.
    """
    pruned = [s for s in standings if s.entrant.base != DENSE]
    rivals = [s for s in pruned if s.entrant.family != pruned[0].entrant.family]
    if not rivals:
        return []
    best = max(rivals, key=lambda s: s.mean("accuracy_val"))
    return [s for s in standings if s in (pruned[0], best) or s not in pruned]


def _run_finals(config, cell, standings, seeds, execute, each):
    def final(standing, seed):
        best = standing.best
        return execute(
            config.run("final", cell, standing.entrant, best.rate, best.value, seed)
        )

    pairs = [(standing, seed) for seed in seeds for standing in standings]
    lines = list(each(final, *zip(*pairs, strict=True))) if pairs else []
    for (standing, seed), line in zip(pairs, lines, strict=True):
        standing.lines[seed] = line
