"""Time of the soft top-k, in passes of one `tf.sigmoid` over the same entries.

    python -m benchmarks.soft_topk [--quick]

What is compared is timed interleaved in one process, round after round, so that other
load on the machine falls on all alike. Every size and mode (XLA or not) has processes
of its own, sorting and its like another, and the median over them counts: what the heap
looks like decides how many page faults a large tensor costs. Ratios are to the
`tf.sigmoid` of the same process. "warm" starts from the last theta, after a step that
moved the logits by noise and theta by 0.02 temperatures; "cold" knows nothing.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from benchmarks.record import RESULTS, provenance, write
from smart_tf.theta import shares
from smart_tf.topk import soft_topk, threshold, with_gradient

SEED = 0
KEPT, TAU = 0.3, 0.1
OUTPUT = RESULTS / "soft_topk.json"
BARS = {  # forward + backward at the largest n, in sigmoid passes
    ("warm fwd+bwd", True): 4.0,
    ("cold fwd+bwd", True): 5.0,
    ("warm fwd+bwd", False): 11.0,
    ("cold fwd+bwd", False): 11.0,
}


def bisection(x, k, tau, start):
    """What a solver costs that halves a bracket 64 times."""
    del start

    def halve(low, high):
        middle = 0.5 * (low + high)
        above = tf.reduce_sum(tf.sigmoid((x - middle) / tau)) > k
        return tf.where(above, middle, low), tf.where(above, high, middle)

    low, high = tf.while_loop(
        lambda *_: True,
        halve,
        (tf.reduce_min(x) - 20 * tau, tf.reduce_max(x) + 20 * tau),
        maximum_iterations=64,
    )
    return tf.sigmoid((x - 0.5 * (low + high)) / tau)


def warm(x, k, tau, start):
    a, s = threshold(x, k, tau, start=start)
    return with_gradient(shares(x, a, s, tau), x, tau)


def cold(x, k, tau, start):
    del start
    return soft_topk(x, k, tau)


def backward_too(solve):
    def run(x, k, tau, start, g):
        with tf.GradientTape() as tape:
            tape.watch(x)
            f = solve(x, k, tau, start)
        return f, tape.gradient(f, x, output_gradients=g)

    return run


def forward(solve):
    return lambda x, k, tau, start, g: solve(x, k, tau, start)


def contestants(n, xla, slow):
    """Named functions of `(x, k, tau, start, g)`: ours, or what is slow."""
    kept = int(KEPT * n)
    named = {"tf.sigmoid": lambda x, k, tau, start, g: tf.sigmoid(x)}
    if slow:
        named["tf.math.top_k"] = lambda x, k, tau, start, g: tf.math.top_k(x, kept)
        named["tf.sort"] = lambda x, k, tau, start, g: tf.sort(x)
        named["64 bisections"] = forward(bisection)
    else:
        named["warm fwd"] = forward(warm)
        named["warm fwd+bwd"] = backward_too(warm)
        named["cold fwd"] = forward(cold)
        named["cold fwd+bwd"] = backward_too(cold)
    return {
        name: tf.function(f, jit_compile=xla, autograph=False)
        for name, f in named.items()
    }


def arguments(n, rng):
    """Logits one training step after those that `start` was solved for."""
    before = tf.constant(rng.normal(size=n), tf.float32)
    tau, k = tf.constant(TAU), KEPT * n
    a, s = threshold(before, k, tau)
    x = before + tf.constant(rng.normal(scale=0.01 * TAU, size=n), tf.float32)
    g = tf.constant(rng.normal(size=n), tf.float32)
    return x + 0.02 * TAU, tf.constant(k, tf.float32), tau, a + tau * s, g


def seconds(function, args, repeats):
    begin = time.perf_counter()
    for _ in range(repeats):
        out = function(*args)
    tf.nest.map_structure(lambda t: t[..., :1].numpy(), out)
    return (time.perf_counter() - begin) / repeats


def measure(n, xla, slow, rounds, seed):
    """Dict from the names of the contestants to their seconds, round by round."""
    args = arguments(n, np.random.default_rng(SEED))
    functions = contestants(n, xla, slow)
    times = {name: [] for name in functions}
    repeats = max(1, 100_000 // n)
    for function in functions.values():
        function(*args)
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        # What ran before decides what is in the caches: nobody always follows the same.
        for name in rng.permutation(list(functions)):
            times[name].append(seconds(functions[name], args, repeats))
    return times


def compared(n, xla, samples):
    """Rows of one size and mode.

    Args:
        n: Integer, how many entries.
        xla: Boolean.
        samples: List of what `measure` returned, one for each process.
    """
    unit = "tf.sigmoid"
    return [
        {
            "n": n,
            "xla": xla,
            "name": name,
            "milliseconds": round(1e3 * _over(samples, name, np.median), 4),
            "passes": round(_over(samples, name, np.median, unit), 2),
            "passes_of_fastest": round(_over(samples, name, min, unit), 2),
            "bar": BARS.get((name, xla)) if n == 3_200_000 else None,
        }
        for name in samples[0]
    ]


def _over(samples, name, reduce, unit=None):
    """Median over processes of a contestant's time, or of its ratio to another's."""
    return float(
        np.median([reduce(t[name]) / (reduce(t[unit]) if unit else 1) for t in samples])
    )


def step_cost(rounds, n=600, chained=20):
    """Microseconds that one warm forward + backward adds to a step without XLA.

    `chained` of them run one after another inside one `tf.function`, and the time
    of an empty one is taken off: calling a function costs more than the solver.
    """
    x, k, tau, start, g = arguments(n, np.random.default_rng(SEED))
    solve = backward_too(warm)

    def chain(times):
        @tf.function(autograph=False)
        def run(x):
            for _ in range(times):  # each depends on the one before: none is shared
                f, grad = solve(x, k, tau, start, g)
                x = x + 0.0 * f + 0.0 * grad
            return x

        return run

    functions = [chain(0), chain(chained)]
    times = [[], []]
    for function in functions:
        function(x)
    for _ in range(10 * rounds):
        for function, spent in zip(functions, times, strict=True):
            spent.append(seconds(function, (x,), 1))
    empty, full = (np.median(t) for t in times)
    operations = len(chain(1).get_concrete_function(x).graph.get_operations())
    return {
        "n": n,
        "microseconds": round(1e6 * float(full - empty) / chained, 1),
        "microseconds_of_fastest": round(
            1e6 * float(min(times[1]) - min(times[0])) / chained, 1
        ),
        "graph_operations": operations,
    }


def markdown(report):
    lines = [
        "# Soft top-k: time in passes of one `tf.sigmoid`",
        "",
        f"{report['machine']['cpu']}, {report['machine']['cores']} cores, TensorFlow "
        f"{report['versions']['tensorflow']}; `{report['command']}`; "
        f"load average {report['load_before']} before. Medians of interleaved rounds, "
        f"and of {report['processes']} processes; in brackets the ratio of the fastest "
        "rounds.",
        "",
        "| n | XLA | | ms | passes | bar |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        lines.append(
            f"| {row['n']:,} | {'yes' if row['xla'] else 'no'} | {row['name']} "
            f"| {row['milliseconds']:.3f} | {row['passes']:.2f} "
            f"({row['passes_of_fastest']:.2f}) | {row['bar'] or ''} |"
        )
    step = report["training_step"]
    lines += [
        "",
        f"One warm forward + backward at n = {step['n']} without XLA adds "
        f"{step['microseconds']:.0f} us to a step (fastest "
        f"{step['microseconds_of_fastest']:.0f} us).",
        "",
    ]
    return "\n".join(lines)


def show(report):
    table = Table(title="Soft top-k, in passes of one tf.sigmoid")
    for column in ("n", "XLA", "", "ms", "passes", "of fastest", "bar"):
        table.add_column(column, justify="left" if column == "" else "right")
    for row in report["rows"]:
        late = row["bar"] is not None and row["passes"] > row["bar"]
        table.add_row(
            f"{row['n']:,}",
            "yes" if row["xla"] else "no",
            row["name"],
            f"{row['milliseconds']:.3f}",
            f"{row['passes']:.2f}",
            f"{row['passes_of_fastest']:.2f}",
            f"{row['bar'] or ''}",
            style="red" if late else None,
        )
    Console().print(table, report["training_step"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small n, few rounds")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    load = [round(value, 2) for value in os.getloadavg()]
    sizes = (1_000, 200_000) if options.quick else (1_000, 200_000, 3_200_000)
    rounds, slow_rounds = (5, 1) if options.quick else (31, 5)
    processes = 1 if options.quick else 5
    rows = []
    with concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as fresh:
        for n in sizes:
            for xla in (True, False):
                ours = [
                    fresh.submit(measure, n, xla, False, rounds, SEED + process)
                    for process in range(processes)
                ]
                slow = fresh.submit(measure, n, xla, True, slow_rounds, SEED)
                rows += compared(n, xla, [job.result() for job in ours])
                rows += compared(n, xla, [slow.result()])[1:]  # tf.sigmoid once
    report = {
        **provenance("benchmarks.soft_topk", SEED),
        "kept": KEPT,
        "temperature": TAU,
        "rounds": rounds,
        "processes": processes,
        "load_before": load,
        "rows": rows,
        "training_step": step_cost(rounds),
    }
    show(report)
    write(options.output, report)
    write(options.output.with_suffix(".md"), markdown(report))


if __name__ == "__main__":
    main()
