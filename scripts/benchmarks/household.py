"""Trains one model on households of several sizes and by several systems, on hosts of scripts/household."""
import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time

import household_report
import machine
from mesh_lab import Household, Lab, LabFailure, parsed, quiet_share

MIB = 1 << 20
# Seconds that a job may take, its measurements and transfers included, and that it may say nothing.
PATIENCE = 1200
SILENCE = 240


def say(text):
    print(f"scripts/benchmark: {text}", file=sys.stderr, flush=True)


class Case:
    """One job: how many devices of which share of a processor, which system and technique."""

    def __init__(self, devices, share, planner="pac", technique="parallel", mode="auto", memory=None):
        self.devices, self.share, self.planner, self.technique = devices, share, planner, technique
        self.mode, self.memory = mode, memory

    @property
    def is_alone(self):
        return self.devices == 1

    @property
    def system(self):
        return "standalone" if self.is_alone else self.planner

    def name(self):
        mode = "" if self.is_alone or self.technique != "parallel" else f", {self.mode}"
        limit = f", {self.memory // MIB} MiB each" if self.memory else ""
        return f"{self.system}, {self.technique}{mode}, {self.devices} x {self.share:g}{limit}"

    def facts(self):
        return {"devices": self.devices, "share": self.share, "system": self.system, "technique": self.technique,
                "mode": self.mode, "memory_bytes": self.memory}


    @property
    def epochs(self):
        """Only what has a cache differs from epoch to epoch."""
        return None if self.technique == "parallel" else 1


def sizes(options, share, counts):
    """One device, and households by both first epochs."""
    cases = [Case(1, share)]
    for count in counts:
        cases += [Case(count, share, mode=mode) for mode in options.modes]
    return cases


def baselines(count, share):
    """What the paper sets beside PAC: both systems with each technique, and one device."""
    techniques = ["full", "houlsby", "lora"]
    return ([Case(1, share, technique=technique) for technique in techniques]
            + [Case(count, share, system, technique) for system in ("ecofl", "eddl")
               for technique in [*techniques, "parallel"]])


def cases_of(options):
    cases = []
    if "sizes" in options.only:
        cases += sizes(options, options.share, options.counts)
    if "whole" in options.only:
        cases += sizes(options, 1.0, [2])
    if "baselines" in options.only:
        cases += baselines(max(options.counts), options.share)
    if "memory" in options.only:
        cases += [Case(max(options.counts), options.share, system, technique, memory=options.memory)
                  for system, technique in (("pac", "parallel"), ("eddl", "lora"), ("eddl", "full"),
                                            ("ecofl", "lora"), ("ecofl", "full"))]
    seen = set()
    return [case for case in cases if not (case.name() in seen or seen.add(case.name()))]


class Bench:
    """A lab with a household of each size, made when the first job wants it."""

    def __init__(self, options, directory):
        self.options, self.directory = options, directory
        self.lab = Lab(max(options.counts + [2]), options.hearth, options.loopback, name="household")
        self.household = None
        self.runs = 0

    def close(self):
        self.leave()
        self.lab.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def leave(self):
        if self.household:
            household, self.household = self.household, None
            for host in sorted(household.daemons):
                try:
                    household.down(host)
                except LabFailure as failure:
                    say(str(failure))

    def limit(self, hosts, share, memory):
        if self.options.loopback:
            return
        for host in hosts:
            self.lab.household("cpu", str(host), f"{share:g}" if share else "none")
            self.lab.household("mem", str(host), str(memory or self.options.device_memory * MIB))

    def make(self, case):
        """A household of the case's size, all of whose devices are in."""
        self.runs += 1
        self.limit(range(1, self.lab.count + 1), None, None)
        # A budget above the limit: whether the limit holds is what is measured.
        budget = ["--memory-budget", str(4 * case.memory)] if case.memory else []
        household = Household(self.lab, f"{case.devices}-{self.runs}", case.devices,
                              ["--threads", "1", "--log-level", os.environ.get("HB_LOG", "info"), *budget])
        self.household = household
        for host in range(1, case.devices + 1):
            household.up(host)
            household.watch(host)
        household.wait_until_all_are_in(range(1, case.devices + 1))
        for host in range(1, case.devices + 1):
            household.unwatch(host)
        self.limit(range(1, case.devices + 1), case.share, case.memory)

    def command(self, case):
        options = self.options
        words = ["train", "--json", "--model", options.model, "--data", options.data, "--task", options.task,
                 *options.columns, "--output", os.path.join(self.directory, f"adapter-{self.runs}"),
                 "--technique", case.technique, "--epochs", str(case.epochs or options.epochs), "--batch", str(options.batch),
                 "--micro-batch", str(options.micro_batch), "--max-length", str(options.length), "--seed", "1",
                 "--validation-fraction", "0"]
        if case.technique == "parallel":
            words += ["--preset", options.preset]
        if case.is_alone:
            return [*words, "--alone", "--threads", "1"]
        words += ["--planner", case.planner]
        return [*words, "--first-epoch", case.mode] if case.technique == "parallel" else words

    def run(self, case):
        """One job to its end; what its events say, with the times at which they came."""
        if case.is_alone:
            self.leave()
            self.runs += 1
            self.limit([1], case.share, case.memory)
        else:
            self.leave()
            self.make(case)
        program = self.lab.hearth_on(
            1, self.household.home if self.household else f"alone-{self.runs}", *self.command(case))
        started = time.time()
        deadline = time.monotonic() + PATIENCE
        while program.process.poll() is None:
            silent = time.time() - max([started, *(moment for moment, _ in program.lines[-1:])])
            if time.monotonic() > deadline or silent > self.options.silence:
                program.process.kill()
                last = program.lines[-1][1][:300] if program.lines else "nothing"
                raise LabFailure(f"no end, and nothing new for {silent:.0f} s; last: {last}")
            time.sleep(0.2)
        time.sleep(0.3)
        events = [(moment - started, fields) for moment, line in program.lines if (fields := parsed(line))]
        outcome = summary(case, events, program)
        outcome["killed"] = self.killed(case)
        self.keep(case, events)
        return outcome

    def killed(self, case):
        """Hosts whose daemon is gone."""
        if not self.household:
            return []
        gone = [host for host, daemon in self.household.daemons.items() if daemon.process.poll() is not None]
        for host in gone:
            self.household.daemons.pop(host)
        return gone

    def keep(self, case, events):
        if self.options.events:
            with open(self.options.events, "a") as file:
                for moment, fields in events:
                    file.write(json.dumps({"case": case.name(), "at": round(moment, 3), **fields}) + "\n")


def summary(case, events, program):
    """The figures of one job."""
    found = {**case.facts(), "name": case.name(), "states": {}, "phases": [], "epochs": [], "exit": program.process.poll()}
    for moment, fields in events:
        name = fields.get("event")
        if name == "state":
            found["states"].setdefault(fields["state"], moment)
        elif name == "planned":
            found["plan"] = {key: fields.get(key) for key in
                             ("mode", "leader", "micro_batches", "stages", "cached_devices", "idle",
                              "predicted_seconds", "plan_digest")}
        elif name == "phase":
            found["phases"].append([fields.get("phase"), moment])
        elif name == "epoch":
            found["epochs"].append({key: fields.get(key) for key in ("mode", "seconds", "samples_per_second", "loss")})
        elif name == "devices":
            found["devices_report"] = fields["devices"]
            for device in fields["devices"]:
                peak = found.setdefault("memory_peaks", {})
                peak[device["name"]] = max(peak.get(device["name"], 0), device.get("memory_bytes") or 0)
        elif name == "result" or "adapter_digest" in fields:
            found["digest"] = fields.get("adapter_digest")
            found["result"] = {key: fields.get(key) for key in
                               ("training_seconds", "peak_resident_bytes", "cache_bytes", "steps",
                                "trainable_parameters")}
        elif name in ("error", "warning") or "error" in fields:
            found.setdefault("told", []).append(fields)
    found["seconds"] = events[-1][0] if events else None
    if found["exit"] != 0:
        found["failure"] = " | ".join(program.errors[-3:])[-600:] or "no reason was given"
    return found


def rows_of(options, directory):
    """A file with so many rows of the MRPC training set, as it is."""
    source = os.path.join(options.corpus, "mrpc", "msr_paraphrase_train.txt")
    path = os.path.join(directory, "mrpc.tsv")
    with open(source, encoding="utf-8-sig", newline="") as rows, open(path, "w", encoding="utf-8", newline="") as file:
        for number, row in enumerate(rows):
            if number > options.rows:
                break
            file.write(row)
    return path


def parse():
    parser = argparse.ArgumentParser(prog="scripts/benchmark household", description=__doc__)
    parser.add_argument("--hearth", required=True)
    parser.add_argument("--benchmark", help="unused: the programs are built together")
    parser.add_argument("--cache", required=True, help="directory with the model of random weights")
    parser.add_argument("--model", help="another model's directory")
    parser.add_argument("--corpus", default=os.environ.get("HEARTH_DATA", os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "shared", "data")))
    parser.add_argument("--only", type=lambda text: text.split(","), default=["sizes", "whole", "baselines"],
                        help="parts: sizes, whole, baselines, memory")
    parser.add_argument("--counts", type=lambda text: [int(word) for word in text.split(",")], default=[2, 4, 8])
    parser.add_argument("--modes", type=lambda text: text.split(","), default=["hybrid", "fill"])
    parser.add_argument("--share", type=float, default=0.25, help="of a processor, for each device")
    parser.add_argument("--device-memory", type=int, default=2560, help="MiB that no device may exceed")
    parser.add_argument("--memory", type=lambda text: int(text) * MIB, default=1536 * MIB, help="MiB, for the part memory")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--quick", action="store_true", help="2 devices by hybrid, 32 rows, 2 epochs")
    parser.add_argument("--short", action="store_true", help="1, 2 and 8 devices, 64 rows, LoRA as the only rival")
    parser.add_argument("--loopback", action="store_true", help="daemons on 127.0.0.1 without limits")
    parser.add_argument("--earlier", metavar="FILE", help="keeps the jobs of an earlier run that are not run now")
    parser.add_argument("--events", metavar="FILE", help="appends every event of every job")
    parser.add_argument("--silence", type=int, default=SILENCE, help="seconds without news after which a job is given up")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--document", metavar="FILE")
    options = parser.parse_args()
    options.model = os.path.abspath(options.model or os.path.join(options.cache, "t5-base"))
    options.task = "classify"
    options.columns = ["--text-column", "4", "--pair-column", "5", "--label-column", "1", "--header", "--format", "tsv"]
    if options.quick:
        options.counts, options.modes, options.rows, options.epochs, options.only = [2], ["hybrid"], 32, 2, ["sizes"]
    if options.short:
        options.counts, options.modes, options.rows, options.only = [2, 8], ["hybrid"], 64, ["sizes"]
    return options


def main():
    options = parse()
    # So that what is up comes down when somebody ends the benchmark.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not os.path.exists(os.path.join(options.model, "model.safetensors")):
        sys.exit(f"scripts/benchmark: {options.model} has no model; run 'scripts/benchmark memory' once, which makes it")
    options.loopback = options.loopback or not Lab.is_possible()[0]
    run = {"machine": machine.description(), "load_before": quiet_share(),
           "options": {key: value for key, value in vars(options).items() if key != "corpus"}, "jobs": []}
    if options.earlier and os.path.exists(options.earlier):
        with open(options.earlier) as file:
            run["jobs"] = json.load(file)["jobs"]
    bench = None
    try:
        bench = Bench(options, tempfile.mkdtemp(prefix="household-", dir=options.cache))
        options.data = rows_of(options, bench.directory)
        cases = cases_of(options)
        if options.short:
            cases += [Case(8, options.share, "eddl", "lora"), Case(8, options.share, "ecofl", "lora")]
        for number, case in enumerate(cases):
            say(f"job {number + 1} of {len(cases)}: {case.name()}")
            try:
                outcome = bench.run(case)
            except LabFailure as failure:
                outcome = {**case.facts(), "name": case.name(), "failure": str(failure), "epochs": []}
            say(household_report.line(outcome))
            run["jobs"] = [job for job in run["jobs"] if job["name"] != outcome["name"]] + [outcome]
            if options.json:
                with open(options.json, "w") as file:
                    json.dump(run, file, indent=1)
    finally:
        if bench:
            bench.close()
    print(household_report.markdown(run))
    if options.document:
        household_report.replace(options.document, household_report.markdown(run))


if __name__ == "__main__":
    main()
