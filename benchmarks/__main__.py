"""Runs the benchmarks, each in a process of its own; the results are in `results/`.

Those that train networks to the end, `accuracy` and `shrink`, are run by themselves.
"""

import subprocess
import sys

BENCHMARKS = (
    *("soft_topk", "step_overhead", "applications", "applications_shrink", "export"),
)


def main():
    for name in BENCHMARKS:
        print(f"benchmarks.{name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
