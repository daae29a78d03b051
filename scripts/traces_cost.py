#!/usr/bin/env python3
"""Measures what traces cost: CPU of the services per order, with every trace exported against none, in turns A B B A on stacks of their
own. The receiver is `holdfast bench` itself, whose CPU is not counted.

    scripts/traces_cost.py [--rounds N] [--orders N] [--programs DIR]
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

RECEIVER = "127.0.0.1:14317"
ROOT = pathlib.Path(__file__).parent.parent


def measure(holdfast, folder, traced, options):
    """One stack, from its start to its end. Returns milliseconds of CPU per order, and spans per order."""
    endpoint = f"http://{RECEIVER}" if traced else ""
    environment = {**os.environ, "HOLDFAST__SERVICE__TRACES__ENDPOINT": endpoint, "HOLDFAST_DATA_DIR": folder}
    up = [holdfast, "up", "--port-offset", "3000"] + (["--programs", options.programs] if options.programs else [])
    bench = [holdfast, "bench", "--phase", "1s", "--orders", str(options.orders), "-o", "json", "--receive-traces", RECEIVER]
    subprocess.run(up, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        report = subprocess.run(bench, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    finally:
        subprocess.run([holdfast, "down"], env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    throughput = json.loads(report.stdout)["throughput"]
    return throughput["service_cpu_ms_per_order"], throughput["spans_per_order"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--orders", type=int, default=3000)
    parser.add_argument("--programs", help="run the services of this folder, instead of those beside the command")
    options = parser.parse_args()
    holdfast = os.environ.get("HOLDFAST", str(ROOT / "target/release/holdfast"))
    costs = {False: [], True: []}
    with tempfile.TemporaryDirectory(prefix="holdfast-traces-cost-") as folder:
        for traced in [False, True, True, False] * options.rounds:
            cost, spans = measure(holdfast, folder, traced, options)
            # A comparison with traces that nobody received would prove nothing.
            if traced != (spans > 0):
                raise SystemExit(f"{spans} spans per order were received, traced: {traced}")
            costs[traced].append(cost)
            print(f"{'traced' if traced else 'off   '}  {cost:.3f} ms per order, {spans:.1f} spans", flush=True)
    off, on = (statistics.mean(costs[traced]) for traced in [False, True])
    print(f"off {off:.3f} ms, traced {on:.3f} ms: {on / off - 1:+.1%}")


if __name__ == "__main__":
    main()
