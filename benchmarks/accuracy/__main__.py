"""Plans, runs and tabulates the comparison that a TOML file describes."""

import argparse
import os
import re
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.accuracy import config, plots, tables
from benchmarks.accuracy.runs import Log, resuming
from benchmarks.accuracy.statistics import check_pairs
from benchmarks.accuracy.study import study
from benchmarks.accuracy.workers import Workers
from benchmarks.record import RESULTS, write

HERE = Path(__file__).parent
CHECKPOINTS = Path("build/accuracy")


class Missing(Exception):
    """A run that has no line yet."""


def main():
    args = parse_arguments()
    compared = config.load(args.config).only(args.methods)
    cells = [cell for cell in compared.cells if re.search(args.cells, str(cell))]
    log = Log(args.lines)
    {"plan": plan, "run": run, "tables": tabulate}[args.action](
        compared, cells, log, args
    )


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__
    )
    parser.add_argument("action", choices=["plan", "run", "tables"])
    parser.add_argument("--quick", action="store_true", help="quick.toml: some 20 min")
    parser.add_argument("--config", type=Path, help="a TOML file of your own")
    parser.add_argument("--lines", type=Path, help="the file of the runs' lines")
    parser.add_argument("--cells", default="", help="regular expression of cells")
    parser.add_argument(
        "--methods", default="", help="regular expression of methods; no tables of some"
    )
    parser.add_argument(
        "--jobs", type=int, default=2, help="runs at once, each on its share of cores"
    )
    args = parser.parse_args()
    args.config = args.config or HERE / ("quick.toml" if args.quick else "full.toml")
    default = RESULTS / f"accuracy_{args.config.stem}.jsonl"
    args.lines = args.lines or default
    return args


def plan(compared, cells, log, args):
    """Prints how many runs and steps there are at most, and how long they take."""
    runs = planned(compared, cells, log)
    left = [run for run in runs if not log.find(run)]
    starts = {(_workload(run), run.seed) for run in runs}
    print(f"{len(cells)} cells from {len(starts)} dense checkpoints; at most")
    for what, some in (("in all", runs), ("left", left)):
        print(f"  {len(some):,} runs, {sum(r.steps for r in some):,} steps {what}")
    seconds = seconds_per_run(log)
    timed = [seconds[_workload(run)] for run in left if _workload(run) in seconds]
    if timed:
        print(f"  {sum(timed) / 3600:.1f} hours for {len(timed):,} of the runs left")


def planned(compared, cells, log):
    """List of the `Run`s that there are at most.

    Where accuracies are not known yet, all methods are taken for equally good: then
    all of them get all seeds.
    """
    runs = {}

    def pretend(run):
        runs[run.key] = run
        return log.find(run) or {"accuracy_val": 0.0}

    for cell in cells:
        study(compared, cell, pretend)
    return list(runs.values())


def seconds_per_run(log):
    """Dict: the mean over the lines of each data set and network."""
    times = {}
    for line in log:
        kind = line["data"]["name"], line["network"]["name"]
        times.setdefault(kind, []).append(line["seconds"])
    return {kind: sum(found) / len(found) for kind, found in times.items()}


def _workload(run):
    return run.data["name"], run.network["name"]


def run(compared, cells, log, args):
    """Does what has no line yet, and then writes the tables."""
    compared.check_rivals(cells)
    with Workers(args.jobs, CHECKPOINTS) as workers:
        execute = resuming(log, _announced(workers.train))
        for cell in cells:
            print(f"{cell}", flush=True)
            study(compared, cell, execute, workers.map)
    if not args.methods:
        tabulate(compared, cells, log, args)


def _announced(train):
    def execute(run):
        outcome = train(run)
        reached = f"validation {outcome['accuracy_val']:.2%}"
        print(f"  {run}: {reached}, {outcome['seconds']:.0f} s", flush=True)
        return outcome

    return execute


def tabulate(compared, cells, log, args):
    """Writes tables and plots of the cells that are finished."""
    results, missing = finished(compared, cells, log)
    title = f"Accuracy after pruning ({args.config.stem})"
    path = args.lines.with_suffix(".md")
    write(path, tables.document(title, results, missing))
    pictures = plots.draw(results, args.lines.with_suffix(""))
    print(f"{len(results)} of {len(cells)} cells: {path}, {len(pictures)} pictures")


def finished(compared, cells, log):
    """The `Result`s of the cells all of whose runs have lines, and the other cells."""

    def find(run):
        line = log.find(run)
        if line is None:
            raise Missing(run)
        return line

    results, missing = [], []
    for cell in cells:
        try:
            results.append(study(compared, cell, find))
        except Missing:
            missing.append(cell)
    for result in results:
        check_pairs(result)
    return results, missing


if __name__ == "__main__":
    main()
