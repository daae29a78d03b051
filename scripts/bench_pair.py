#!/usr/bin/env python3
"""Compares two stacks by what an order costs. Both are up at the same time, and `holdfast bench` loads them in turns A B B A, so that a
machine that is slower for a minute slows both. Prints each pair, and the median of their ratios with its spread.

    scripts/bench_pair.py traces               A exports no trace, B every trace
    scripts/bench_pair.py programs OLD NEW     A runs the services of one folder, B those of another one
    scripts/bench_pair.py commands OLD NEW     A is run by one `holdfast`, B by another, each with the services beside it and its own settings of
                                               databases and broker
    scripts/bench_pair.py flags FLAG...        B is started with these flags of `holdfast up`, as in `flags --database-tls=off`
    scripts/bench_pair.py settings NAME=VALUE...  B is started with these variables, as in `settings TOKIO_WORKER_THREADS=1`

`--pairs N`, `--orders N` and `--phase TIME`, the length of the phases that measure latency, come first. HOLDFAST is the command, by default target/release/holdfast. The receiver of traces is
`holdfast bench` itself, whose CPU counts for none.
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
HOLDFAST = os.environ.get("HOLDFAST", str(ROOT / "target/release/holdfast"))
COMPONENTS = ["order", "payment", "delivery", "orders-db", "payments-db", "deliveries-db", "kafka"]
LATENCIES = [f"{phase} {figure} {quantile}" for phase in ("idle", "loaded") for figure in ("post", "post_to_paid") for quantile in ("p50_ms", "p99_ms")]
FIGURES = [*LATENCIES, "service_cpu_ms_per_order", "cpu_ms_per_order", "wal_bytes_per_order", "paid_per_second", *(f"{name} / gateway" for name in COMPONENTS)]


class Stack:
    """A stack of its own. `settings` are variables of its services, `flags` those of `holdfast up`, `command` is the `holdfast` that runs and loads it."""

    def __init__(self, folder, port_offset, settings, flags, receives_traces, command=HOLDFAST):
        self.command = command
        self.environment = {**os.environ, **settings, "HOLDFAST_DATA_DIR": folder}
        self.receives_traces = receives_traces
        self.run("up", "--port-offset", str(port_offset), *flags)

    def run(self, *arguments):
        return subprocess.run([self.command, *arguments], env=self.environment, check=True, stdout=subprocess.PIPE).stdout

    def bench(self, orders, phase):
        receive = ["--receive-traces", RECEIVER] if self.receives_traces else []
        whole = json.loads(self.run("bench", "--phase", phase, "--orders", str(orders), "-o", "json", *receive))
        report = whole["throughput"]
        # A comparison with traces that nobody has received would prove nothing.
        if self.receives_traces and not report["spans_per_order"]:
            raise SystemExit("no span was received")
        report["wal_bytes_per_order"] = sum(database["wal_bytes"] for database in report["cost"]["databases"].values())
        for latency in LATENCIES:
            load, figure, quantile = latency.split()
            report[latency] = whole[load][figure][quantile]
        # In units of the gateway, because a machine that is slower for a minute is so for all of them.
        components = {name: component["cpu_ms"] for name, component in report["cost"]["components"].items()}
        report |= {f"{name} / gateway": components[name] / components["gateway"] for name in COMPONENTS}
        return report


def settings_of(options, folders):
    """What differs: for A and for B the arguments of `Stack`."""
    a, b = (dict(folder=folder, port_offset=3000 + 700 * i, settings={}, flags=[], receives_traces=False) for i, folder in enumerate(folders))
    match options.what:
        case "traces":
            b["settings"] = {"HOLDFAST__SERVICE__TRACES__ENDPOINT": f"http://{RECEIVER}"}
            b["receives_traces"] = True
        case "programs":
            for stack, programs in zip((a, b), options.arguments, strict=True):
                stack["flags"] = ["--programs", programs]
        case "commands":
            for stack, command in zip((a, b), options.arguments, strict=True):
                stack["command"] = command
        case "flags":
            b["flags"] = options.arguments
        case "settings":
            b["settings"] = dict(setting.split("=", 1) for setting in options.arguments)
    return a, b


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--orders", type=int, default=2000)
    parser.add_argument("--phase", default="1s")
    parser.add_argument("what", choices=["traces", "programs", "commands", "flags", "settings"])
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    ratios = {figure: [] for figure in FIGURES}
    with tempfile.TemporaryDirectory(prefix="holdfast-pair-a-") as first, tempfile.TemporaryDirectory(prefix="holdfast-pair-b-") as second:
        stacks = []
        try:
            for arguments in settings_of(options, [first, second]):
                stacks.append(Stack(**arguments))
            for stack in stacks:
                # Caches, plans and compilers get warm.
                stack.bench(options.orders // 2, options.phase)
            for pair in range(options.pairs):
                order = [0, 1] if pair % 2 == 0 else [1, 0]
                reports = {i: stacks[i].bench(options.orders, options.phase) for i in order}
                for figure in FIGURES:
                    ratios[figure].append(reports[1][figure] / reports[0][figure])
                print("  ".join(f"{figure} {reports[0][figure]:.3f} {reports[1][figure]:.3f}" for figure in FIGURES), flush=True)
        finally:
            for stack in stacks:
                stack.run("down")
    for figure, of_pairs in ratios.items():
        print(f"{figure}: B is {statistics.median(of_pairs):.3f} of A ({min(of_pairs):.3f} to {max(of_pairs):.3f} in {len(of_pairs)} pairs)")


if __name__ == "__main__":
    main()
