"""Measures Hearth's training engine against PyTorch in one run; see `scripts/benchmark --help`."""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import machine
import profile_steps
import report
import workloads
from measurement import record
from worker_process import Worker, WorkerFailure

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SEED = 1

# Names of the workers: scenario and who runs it. "3 heads" is the side network with few heads.
HEARTH_FORWARD, PYTORCH_FORWARD = "hearth forward", "pytorch forward"
HEARTH_LIVE, PYTORCH_LIVE = "hearth live", "pytorch live"
HEARTH_CACHED, PYTORCH_CACHED = "hearth cached", "pytorch cached"
HEARTH_FEW, PYTORCH_FEW = "hearth cached, 3 heads", "pytorch cached, 3 heads"
PYTORCH_LORA, PYTORCH_FULL = "pytorch lora", "pytorch full"
FEW_HEADS = 3

SCENARIOS = {
    HEARTH_FORWARD: "forward", PYTORCH_FORWARD: "forward",
    HEARTH_LIVE: "parallel-live", PYTORCH_LIVE: "parallel-live",
    HEARTH_CACHED: "parallel-cached", PYTORCH_CACHED: "parallel-cached",
    HEARTH_FEW: "parallel-cached", PYTORCH_FEW: "parallel-cached",
    PYTORCH_LORA: "lora", PYTORCH_FULL: "full",
}

# Workers that live together, and their cycles: (workers that alternate, cycles a round).
STAGES = [
    [([HEARTH_FORWARD, PYTORCH_FORWARD], 1)],
    [([HEARTH_LIVE, PYTORCH_LIVE, PYTORCH_LORA], 1), ([HEARTH_CACHED, PYTORCH_CACHED], 3)],
    [([HEARTH_FEW, PYTORCH_FEW], 3)],
]


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/benchmark engine", description=__doc__)
    parser.add_argument("--executable", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--cache", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--document", metavar="FILE")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--data", default=os.environ.get("HEARTH_DATA", os.path.join(ROOT, "..", "shared", "data")))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--shape", default="t5-base", choices=["t5-base", "t5-large"])
    parser.add_argument("--most-others", type=float, default=0.08)
    return parser.parse_args()


def say(text):
    print(text, file=sys.stderr, flush=True)


class Run:
    """One benchmark run: its files, its workers and what it found out."""

    def __init__(self, options):
        self.options = options
        self.model = os.path.join(options.cache, options.shape)
        self.directory = os.path.join(options.cache, f"run-{os.getpid()}")
        self.report = {
            "machine": machine.description(), "options": vars(options), "workers": {}, "memory": {}, "workloads": {}}
        os.makedirs(self.directory)

    # Preparation

    def hearth(self, *command):
        subprocess.run([self.options.executable, *command], check=True, stdout=sys.stderr)

    def prepare(self):
        """Writes the model (kept for the next run), the workloads and the activation caches."""
        if not os.path.isfile(os.path.join(self.model, "config.json")):
            say(f"writing {self.options.shape} with random weights to {self.model}")
            self.hearth("make-model", "--shape", self.options.shape, "--output", self.model)
        quick = self.options.quick
        self.workloads = [(workloads.fixed(2 if quick else 4), 3 if quick else 5)]
        if not quick:
            for name in sorted(workloads.SETS):
                workload = workloads.real(name, self.options.data, 8, SEED)
                if workload is None:
                    say(f"{name}: no {workloads.SETS[name][0]} in {self.options.data}; skipped (--data DIR)")
                else:
                    self.workloads.append((workload, len(workload["batches"])))
        for workload, _ in self.workloads:
            say(f"caching the activations of {workload['name']}")
            path = workloads.write(workload, self.path(workload))
            self.hearth(
                "make-cache", "--model", self.model, "--workload", path, "--seed", str(SEED), "--cache",
                self.directory, "--threads", str(self.options.threads), "--micro-batch",
                str(self.options.micro_batch))

    def path(self, workload):
        return os.path.join(self.directory, workload["name"] + ".json")

    # Workers

    def start(self, name, environment=None):
        """Starts the worker of that name on the first workload."""
        options = ["--scenario", SCENARIOS[name], "--workload", self.path(self.workloads[0][0]),
                   "--threads", str(self.options.threads), "--seed", str(SEED)]
        if name in (HEARTH_FEW, PYTORCH_FEW):
            options += ["--side-heads", str(FEW_HEADS)]
        if name.startswith("hearth"):
            command = [self.options.executable, "worker", *options, "--model", self.model, "--cache", self.directory,
                       "--micro-batch", str(self.options.micro_batch)]
        else:
            command = [sys.executable, os.path.join(HERE, "pytorch_worker.py"), *options,
                       "--shape", self.options.shape]
        worker = Worker(name, command, environment)
        self.report["workers"][name] = worker.facts
        return worker

    def check_blas(self, facts):
        """Ends the run when OpenBLAS works with the kernels of another CPU: its numbers would say nothing."""
        blas = facts["blas"]
        if blas["contradicts_cpu"]:
            raise SystemExit(
                f"scripts/benchmark: OpenBLAS core {blas['core']} contradicts the CPU ({facts['cpu']}): "
                f"{blas['explanation']}. No table is printed.")

    # Measuring

    def measure(self):
        """Runs all stages on all workloads."""
        for stage in STAGES:
            if self.options.shape == "t5-large" and stage is STAGES[2]:
                continue  # 3 heads is a variant of T5-Base
            names = [name for group, _ in stage for name in group]
            workers = {}
            try:
                for name in names:
                    say(f"starting {name}")
                    workers[name] = self.start(name)
                    if name.startswith("hearth"):
                        self.check_blas(workers[name].facts)
                self.check_side_networks(names)
                self.measure_stage(stage, workers)
                if HEARTH_FORWARD in workers:
                    workers[HEARTH_FORWARD].ask("workload " + self.path(self.workloads[0][0]))
                    self.report["sgemm"] = workers[HEARTH_FORWARD].ask("sgemm")
            finally:
                for worker in workers.values():
                    worker.close()

    def check_side_networks(self, names):
        """Both sides have to train the same network, or a ratio of their times means nothing."""
        for ours, theirs in ((HEARTH_LIVE, PYTORCH_LIVE), (HEARTH_CACHED, PYTORCH_CACHED), (HEARTH_FEW, PYTORCH_FEW)):
            if ours in names:
                counts = [self.report["workers"][name]["trainable_parameters"] for name in (ours, theirs)]
                if counts[0] != counts[1]:
                    raise SystemExit(
                        f"scripts/benchmark: {ours} trains {counts[0]} parameters and {theirs} {counts[1]}; "
                        "these are different networks and no table is printed")

    def measure_stage(self, stage, workers):
        cycles = [([workers[name] for name in group], repetitions) for group, repetitions in stage]
        for index, (workload, rounds) in enumerate(self.workloads):
            label = f"{workload['name']}: " + ", ".join(workers)
            if index > 0:
                for worker in workers.values():
                    worker.ask("workload " + self.path(workload))
            recording = record(
                cycles, rounds, self.options.most_others,
                lambda number, of: say(f"{label}: " + ("warmed up" if number == 0 else f"round {number} of {of}")))
            self.report["workloads"].setdefault(workload["name"], []).append(recording)
            if index == 0:
                for name, worker in workers.items():
                    self.report["memory"][name] = worker.ask("memory")

    def count_allocations(self):
        """Heap allocations of cached steps after warm-up, counted by a preloaded library."""
        compiler = shutil.which("cc") or shutil.which("clang")
        if compiler is None:
            say("no C compiler: allocations are not counted")
            return
        library = os.path.join(self.directory, "step_probe.so")
        subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", os.path.join(HERE, "step_probe.c"), "-o", library], check=True)
        worker = self.start(HEARTH_CACHED, {**os.environ, "LD_PRELOAD": library})
        try:
            counts = [worker.ask("step")["allocations"] for _ in range(8)]
        finally:
            worker.close()
        self.report["allocations"] = {"first_steps": counts[:4], "after_warm_up": counts[4:]}

    def measure_full(self):
        """PyTorch's full fine-tuning, for its memory and seconds."""
        say(f"starting {PYTORCH_FULL}")
        worker = self.start(PYTORCH_FULL)
        try:
            recording = record([([worker], 1)], 2, self.options.most_others, lambda number, of: None)
            self.report["workloads"][self.workloads[0][0]["name"]].append(recording)
            self.report["memory"][PYTORCH_FULL] = worker.ask("memory")
        finally:
            worker.close()

    def profile(self):
        """Where the processor time of our steps goes."""
        self.report["profile"] = {}
        for name in (HEARTH_FORWARD, HEARTH_LIVE, HEARTH_CACHED):
            worker = self.start(name)
            try:
                self.report["profile"][name] = profile_steps.profile(worker, self.directory)
            finally:
                worker.close()

    def close(self):
        shutil.rmtree(self.directory, ignore_errors=True)


def main():
    options = arguments()
    # A terminated run still removes its caches and ends its workers.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    run = Run(options)
    start = time.perf_counter()
    try:
        run.prepare()
        run.measure()
        run.count_allocations()
        if options.full:
            run.measure_full()
        if options.profile:
            run.profile()
    except WorkerFailure as failure:
        raise SystemExit(f"scripts/benchmark: {failure}") from None
    except subprocess.CalledProcessError as failure:
        raise SystemExit(f"scripts/benchmark: {' '.join(failure.cmd)} ended with {failure.returncode}") from None
    finally:
        run.close()
    run.report["minutes"] = (time.perf_counter() - start) / 60
    text = report.markdown(run.report)
    print(text)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report.plain(run.report), file, indent=1, sort_keys=True)
            file.write("\n")
    if options.document:
        report.replace(options.document, text)


if __name__ == "__main__":
    main()
