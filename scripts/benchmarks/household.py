"""Trains one model on households of several sizes and by several systems, on hosts of scripts/household."""
import argparse
import copy
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
    """One job: how many devices of which share of a processor, which system and technique.

    `memory` is what the kernel kills beyond, with plans that do not look at it; `budget` is what plans count with.
    """

    def __init__(self, devices, share, planner="pac", technique="parallel", mode="auto", memory=None, budget=None,
                 apart=False, rows=None, precision="full"):
        self.devices, self.share, self.planner, self.technique = devices, share, planner, technique
        self.mode, self.memory, self.budget, self.apart, self.rows = mode, memory, budget, apart, rows
        self.precision = precision

    @property
    def is_alone(self):
        return self.devices == 1

    @property
    def system(self):
        return "ceiling" if self.apart else "standalone" if self.is_alone else self.planner

    def name(self):
        mode = "" if self.is_alone or self.apart or self.technique != "parallel" else f", {self.mode}"
        limit = f", {self.memory // MIB} MiB each" if self.memory else ""
        budget = f", plans of {self.budget // MIB} MiB" if self.budget else ""
        precision = "" if self.precision == "full" else f", gradients in {self.precision} precision"
        return f"{self.system}, {self.technique}{mode}, {self.devices} x {self.share:g}{limit}{budget}{precision}"

    def facts(self):
        return {"devices": self.devices, "share": self.share, "system": self.system, "technique": self.technique,
                "mode": self.mode, "memory_bytes": self.memory, "budget_bytes": self.budget,
                "precision": self.precision, "rows": self.rows}

    @property
    def learns(self):
        """Whether a short job goes before, as in a household that trains again.

        Its devices then know how many bits sums take on the wire, which plans are made with.
        """
        return self.planner == "pac" and not (self.is_alone or self.apart or self.memory)

    def short(self):
        """The same on a few rows."""
        case = copy.copy(self)
        case.rows = 32
        return case

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


def baselines(options, count, share):
    """What the paper sets beside PAC: both systems with each technique, and one device.

    Without a cache all epochs are alike, so one says the same; over few rows a run's first step would count too much.
    """
    techniques, rows = options.techniques, options.baseline_rows
    return ([Case(1, share, technique=technique, rows=rows) for technique in techniques]
            + [Case(count, share, system, technique, rows=rows) for system in ("eddl", "ecofl")
               for technique in techniques])


def cases_of(options):
    cases = []
    if "sizes" in options.only:
        cases += sizes(options, options.share, options.counts)
    if "half" in options.only:
        cases += [Case(count, options.share, mode=options.modes[0], precision="half") for count in options.counts]
    if "whole" in options.only:
        cases += sizes(options, 1.0, [2])
    if "ceiling" in options.only:
        cases += [Case(count, options.share, apart=True) for count in options.counts]
    if "stages" in options.only:
        cases += [Case(max(options.counts), options.share, mode=mode, budget=options.budget)
                  for mode in options.stage_modes]
    if "baselines" in options.only:
        cases += baselines(options, max(options.counts), options.share)
    if "memory" in options.only:
        rows, most = options.baseline_rows, max(options.counts)
        cases += [Case(1, options.share, technique="full", memory=options.memory, rows=rows)]
        cases += [Case(most, options.share, system, technique, memory=options.memory, rows=rows)
                  for system, technique in (("eddl", "full"), ("eddl", "lora"), ("ecofl", "full"), ("pac", "parallel"))]
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
        names = ",".join(map(str, hosts))
        self.lab.household("cpu", names, f"{share:g}" if share else "none")
        self.lab.household("mem", names, str(memory or self.options.device_memory * MIB))

    def speed(self, case, share):
        """Gives all hosts of a case another share of a processor."""
        if not self.options.loopback:
            self.lab.household("cpu", ",".join(map(str, range(1, case.devices + 1))), f"{share:g}" if share else "none")

    def hasten(self, case, events):
        """Lifts the limits while weights are fetched, where the devices together have the whole machine anyway.

        What follows is as slow as before: that many devices at work get no more than their share of it.
        """
        if case.is_alone or case.apart or case.devices * case.share < os.cpu_count():
            return
        names = {fields.get("state") for _, fields in events if fields.get("event") == "state"}
        wanted = "training" not in names and any(fields.get("event") == "planned" for _, fields in events)
        if wanted != self.is_hastened:
            self.is_hastened = wanted
            self.speed(case, None if wanted else case.share)

    def make(self, case):
        """A household of the case's size, all of whose devices are in."""
        self.runs += 1
        self.limit(range(1, self.lab.count + 1), None, None)
        # A budget above the limit: whether the limit holds is what is measured.
        budget = ["--memory-budget", str(case.budget or 16 * case.memory)] if case.budget or case.memory else []
        household = Household(self.lab, f"{case.devices}-{self.runs}", case.devices,
                              ["--threads", "1", "--log-level", os.environ.get("HB_LOG", "info"), *budget])
        self.household = household
        household.before = self.blind(case)
        for host in range(1, case.devices + 1):
            household.up(host)
            household.watch(host)
        household.wait_until_all_are_in(range(1, case.devices + 1))
        for host in range(1, case.devices + 1):
            household.unwatch(host)
        self.limit(range(1, case.devices + 1), case.share, case.memory)

    @staticmethod
    def blind(case):
        """What a command begins with so that its plans do not look at the kernel's limit."""
        return ["env", "HEARTH_IGNORE_MEMORY_LIMIT=1"] if case.memory else []

    def command(self, case, part=""):
        options = self.options
        words = ["train", "--json", "--model", options.model, "--data", self.data(case), "--task", options.task,
                 *options.columns, "--output", os.path.join(self.directory, f"adapter-{self.runs}{part}"),
                 "--technique", case.technique, "--epochs", str(case.epochs or options.epochs), "--batch", str(options.batch),
                 "--micro-batch", str(options.micro_batch), "--max-length", str(options.length), "--seed", "1",
                 "--validation-fraction", "0"]
        if case.technique == "parallel":
            words += ["--preset", options.preset]
        if case.precision != "full":
            words += ["--gradient-precision", case.precision]
        if case.is_alone or case.apart:
            return [*words, "--alone", "--threads", "1"]
        words += ["--planner", case.planner]
        return [*words, "--first-epoch", case.mode] if case.technique == "parallel" else words

    def run(self, case):
        """One job to its end; what its events say, with the times at which they came."""
        self.leave()
        if case.apart:
            return self.run_apart(case)
        if case.is_alone:
            self.runs += 1
            self.limit([1], case.share, case.memory)
        else:
            self.make(case)
            if case.learns:
                self.follow(case.short(), "-first")
        program, events, marks = self.follow(case)
        outcome = summary(case, events, program)
        outcome["killed"] = self.killed(case)
        # From the beginning of the first epoch, and from the end of the one before.
        outcome["processor_seconds"] = [
            round(used - before, 2) for (_, before), (name, used) in zip(marks, marks[1:]) if name == "epoch"]
        self.keep(case, events)
        return outcome

    def follow(self, case, part=""):
        """One job to its end: the program, its events with their times, and the processor time at its epochs' ends."""
        program = self.lab.hearth_on(
            1, self.household.home if self.household else f"alone-{self.runs}", *self.command(case, part),
            before=self.blind(case))
        self.is_hastened = False
        started, read, events, marks = time.time(), 0, [], []
        deadline = time.monotonic() + PATIENCE
        while program.process.poll() is None:
            silent = time.time() - max([started, *(moment for moment, _ in program.lines[-1:])])
            if time.monotonic() > deadline or silent > self.options.silence:
                program.process.kill()
                last = program.lines[-1][1][:300] if program.lines else "nothing"
                raise LabFailure(f"no end, and nothing new for {silent:.0f} s; last: {last}")
            lines = program.lines[read:]
            read += len(lines)
            fresh = [(moment - started, fields) for moment, line in lines if (fields := parsed(line))]
            events += fresh
            marks += [(fields["event"], self.processor_seconds(program)) for _, fields in fresh
                      if fields.get("event") == "epoch"
                      or fields.get("event") == "phase" and not marks and fields["phase"] in ("live", "fill")]
            self.hasten(case, events)
            time.sleep(0.05)
        time.sleep(0.3)
        events = [(moment - started, fields) for moment, line in program.lines if (fields := parsed(line))]
        return program, events, marks

    def processor_seconds(self, program):
        """What all devices of the job have used."""
        daemons = self.household.daemons.values() if self.household else [program]
        ticks = 0
        for daemon in daemons:
            try:
                with open(f"/proc/{daemon.process.pid}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
            except OSError:
                pass
        return ticks / os.sysconf("SC_CLK_TCK")

    def run_apart(self, case):
        """As many jobs at once as there are devices, each alone on its own: what the machine itself allows."""
        self.runs += 1
        hosts = range(1, case.devices + 1)
        self.limit(hosts, case.share, case.memory)
        programs = [self.lab.hearth_on(host, f"apart-{self.runs}", *self.command(case, f"-{host}")) for host in hosts]
        started = time.time()
        deadline = time.monotonic() + PATIENCE
        for program in programs:
            while program.process.poll() is None:
                if time.monotonic() > deadline:
                    raise LabFailure(f"a job of its own has not ended within {PATIENCE} s")
                time.sleep(0.1)
        time.sleep(0.3)
        outcomes = [summary(case, [(moment - started, fields) for moment, line in program.lines
                                   if (fields := parsed(line))], program) for program in programs]
        if any(outcome["exit"] != 0 for outcome in outcomes):
            return next(outcome for outcome in outcomes if outcome["exit"] != 0)
        if len({outcome["digest"] for outcome in outcomes}) != 1:
            raise LabFailure("jobs apart have made different adapters")
        # As in a household, the slowest decides.
        slowest = dict(outcomes[0])
        slowest["epochs"] = [max(epochs, key=lambda epoch: epoch["seconds"])
                             for epochs in zip(*(outcome["epochs"] for outcome in outcomes))]
        return slowest

    def data(self, case):
        """The file with the rows of a case."""
        return rows_of(self.options, self.directory, case.rows or self.options.rows)

    def killed(self, case):
        """Hosts whose daemon is gone."""
        if not self.household:
            return []
        deadline = time.monotonic() + (2 if case.memory else 0)
        while time.monotonic() < deadline and all(
                daemon.process.poll() is None for daemon in self.household.daemons.values()):
            time.sleep(0.1)
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
    first_step = None
    for moment, fields in events:
        name = fields.get("event")
        if name == "progress" and fields.get("epoch") == 1 and fields.get("step") == 1:
            first_step = fields
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
                if device.get("transition_seconds") is not None:
                    found.setdefault("transitions", {})[device["name"]] = [
                        device["transition_seconds"], device.get("transition_freed_bytes") or 0]
        elif name == "result" or "adapter_digest" in fields:
            found["digest"] = fields.get("adapter_digest")
            found["result"] = {key: fields.get(key) for key in
                               ("training_seconds", "peak_resident_bytes", "cache_bytes", "steps",
                                "trainable_parameters")}
            # A job that was planned again during its last step tells its epochs only here.
            told = [{key: epoch.get(key) for key in ("mode", "seconds", "samples_per_second", "loss")}
                    for epoch in fields.get("epochs") or []]
            if len(told) > len(found["epochs"]):
                found["epochs"] = told
        elif name in ("error", "warning") or "error" in fields:
            found.setdefault("told", []).append(fields)
    found["seconds"] = events[-1][0] if events else None
    # A fast epoch may be told before its progress is.
    if found["epochs"] and (steady := rate_behind(first_step, found["epochs"][0])):
        found["steady_samples_per_second"] = steady
    if found["exit"] in (-9, 137):
        found["failure"] = "the kernel killed it: out of memory"
    elif found["exit"] != 0:
        found["failure"] = " | ".join(program.errors[-3:])[-600:] or "no reason was given"
    return found


def rate_behind(first_step, epoch):
    """Samples a second of an epoch behind its first step, which touches all memory and under full fine-tuning is computed twice."""
    if not first_step or first_step.get("steps", 0) < 2 or not epoch.get("samples_per_second"):
        return None
    samples = epoch["seconds"] * epoch["samples_per_second"]
    share = 1 / first_step["steps"]
    rest = epoch["seconds"] - share * samples / first_step["samples_per_second"]
    return (1 - share) * samples / rest if rest > 0 else None


def rows_of(options, directory, count):
    """A file with so many rows of the MRPC training set, as it is."""
    source = os.path.join(options.corpus, "mrpc", "msr_paraphrase_train.txt")
    path = os.path.join(directory, f"mrpc-{count}.tsv")
    with open(source, encoding="utf-8-sig", newline="") as rows, open(path, "w", encoding="utf-8", newline="") as file:
        for number, row in enumerate(rows):
            if number > count:
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
    parser.add_argument("--only", type=lambda text: text.split(","), default=["sizes", "ceiling", "stages", "baselines"],
                        help="parts: sizes, whole, ceiling, stages, baselines, memory")
    parser.add_argument("--counts", type=lambda text: [int(word) for word in text.split(",")], default=[2, 4, 8])
    parser.add_argument("--modes", type=lambda text: text.split(","), default=["hybrid", "fill"])
    parser.add_argument("--share", type=float, default=0.25, help="of a processor, for each device")
    parser.add_argument("--device-memory", type=int, default=2560, help="MiB that no device may exceed")
    parser.add_argument("--memory", type=lambda text: int(text) * MIB, default=1536 * MIB, help="MiB, for the part memory")
    parser.add_argument("--budget", type=lambda text: int(text) * MIB, default=700 * MIB,
                        help="MiB that plans count with, for the part stages")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--stage-modes", type=lambda text: text.split(","), default=["auto"])
    parser.add_argument("--baseline-rows", type=int, default=128, help="for techniques without a cache")
    parser.add_argument("--techniques", type=lambda text: text.split(","), default=["full", "houlsby", "lora"])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--quick", action="store_true", help="2 devices by hybrid, 32 rows, 2 epochs")
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
    return options


def measure(options, run):
    """All jobs, one after the other; what has been measured is on the disk after each."""
    bench = Bench(options, tempfile.mkdtemp(prefix="household-", dir=options.cache))
    try:
        cases = cases_of(options)
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
        bench.close()


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
    if options.loopback or options.quick:
        # Nobody compares these figures.
        measure(options, run)
    else:
        say("memory: a virtual machine's free pages are touched once, so that none is fetched from its host while jobs run")
        with machine.KeptPages() as pages:
            run["kept_pages"] = pages.are_kept
            measure(options, run)
    print(household_report.markdown(run))
    if options.document:
        household_report.replace(options.document, household_report.markdown(run))


if __name__ == "__main__":
    main()
