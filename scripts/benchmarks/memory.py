"""A backbone that does not fit: T5 of random weights, trained without limits and inside memory control groups.

Proves that the adapter is the same and shows what the groups held at most and how long it took. Needs root, because
control groups do.
"""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time

import machine
import report

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BEGIN, END = "<!-- memory begin -->", "<!-- memory end -->"
MIB = 1 << 20


class ControlGroup:
    """A memory control group of its own, in version 1 or 2 of the interface, whichever the machine has."""

    def __init__(self, limit):
        self.path, self.version = self.find()
        if self.version == 2:
            self.write("memory.max", limit)
            self.try_write("memory.swap.max", 0)
        else:
            self.write("memory.limit_in_bytes", limit)
            self.try_write("memory.memsw.limit_in_bytes", limit)

    @staticmethod
    def find():
        """Makes the group at the top of the hierarchy that has the memory controller."""
        unified = None
        with open("/proc/self/mountinfo") as mounts:
            for line in mounts:
                left, _, right = line.partition(" - ")
                mount, (kind, _, options) = left.split()[4], right.split()[:3]
                if kind == "cgroup" and "memory" in options.split(","):
                    return ControlGroup.make(mount), 1
                if kind == "cgroup2":
                    unified = mount
        if unified is None:
            sys.exit("memory.py: no control group hierarchy is mounted")
        with open(f"{unified}/cgroup.subtree_control", "w") as control:
            control.write("+memory")
        return ControlGroup.make(unified), 2

    @staticmethod
    def make(mount):
        path = f"{mount}/hearth-memory-{os.getpid()}-{time.monotonic_ns()}"
        os.mkdir(path)
        return path

    def write(self, name, value):
        with open(f"{self.path}/{name}", "w") as control:
            control.write(str(value))

    def try_write(self, name, value):
        if os.path.exists(f"{self.path}/{name}"):
            self.write(name, value)

    def read(self, name):
        try:
            with open(f"{self.path}/{name}") as control:
                return control.read()
        except FileNotFoundError:
            return ""

    def enter(self):
        """Puts the calling process, and what it becomes, into the group."""
        self.write("cgroup.procs", os.getpid())

    def peak(self):
        """Most bytes that the group was charged with: the program's memory and the files that it read and wrote."""
        text = self.read("memory.peak" if self.version == 2 else "memory.max_usage_in_bytes")
        return int(text) if text else None

    def kills(self):
        text = self.read("memory.events" if self.version == 2 else "memory.oom_control")
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
        return 0

    def remove(self):
        os.rmdir(self.path)


def forget_file(path):
    """Lets the system's copy of a file go, so that a limited run pays for what it reads."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def make_rows(path, count, words):
    """Texts long enough to fill the greatest length, each different, with two labels."""
    generator = random.Random(7)
    vocabulary = ["good", "bad", "film", "plot", "the", "a", "great", "poor", "story", "cast"]
    with open(path, "w") as file:
        for index in range(count):
            text = " ".join(generator.choice(vocabulary) for _ in range(words))
            file.write(f"{index} {text}\t{'yes' if index % 2 == 0 else 'no'}\n")


class Bench:
    def __init__(self, options):
        self.options = options
        self.directory = os.path.join(options.cache, "memory")
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory)
        self.model = os.path.join(options.cache, options.shape)
        if not os.path.exists(os.path.join(self.model, "config.json")):
            subprocess.run(
                [options.benchmark, "make-model", "--shape", options.shape, "--output", self.model], check=True)
        tokenizer = os.path.join(self.model, "spiece.model")
        if not os.path.exists(tokenizer):
            shutil.copy(os.path.join(ROOT, "Tests/Fixtures/tiny-t5/spiece.model"), tokenizer)
        self.rows = os.path.join(self.directory, "rows.tsv")
        make_rows(self.rows, options.samples, 2 * options.tokens)

    def train(self, name, limit=None, epochs=None, keep=None, preset="default"):
        """One run of `hearth train`; the result's JSON with the group's peak."""
        options = self.options
        output = os.path.join(self.directory, name)
        command = [
            options.hearth, "train", "--json", "--model", self.model, "--data", self.rows, "--task", "classify",
            "--output", output, "--no-header", "--text-column", "1", "--label-column", "2",
            "--validation-fraction", "0",
            "--epochs", str(epochs or options.epochs), "--max-length", str(options.tokens), "--preset", preset,
            "--threads", str(options.threads)]
        if keep:
            command += ["--keep-cache", "--cache-directory", os.path.join(self.directory, keep)]
        forget_file(os.path.join(self.model, "model.safetensors"))
        group = ControlGroup(limit) if limit else None
        start = time.monotonic()
        ended = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=group.enter if group else None)
        seconds = time.monotonic() - start
        peak, kills = (group.peak(), group.kills()) if group else (None, 0)
        if group:
            group.remove()
        lines = ended.stdout.splitlines()
        if ended.returncode != 0:
            sys.exit(f"memory.py: {name} ended with {ended.returncode} ({kills} kills): {ended.stderr[-2000:]}")
        result = json.loads(lines[-1])
        started = next(json.loads(line) for line in lines if '"event":"started"' in line)
        record = {
            "name": name, "limit_bytes": limit, "group_peak_bytes": peak, "seconds": seconds,
            "resident_peak_bytes": result["peak_resident_bytes"], "digest": result["adapter_digest"],
            "fill_seconds": (result.get("fill") or {}).get("seconds"), "epochs": result["epochs"],
            "streaming": started.get("streaming"), "cache_bytes": result["cache_bytes"],
            "trainable_parameters": started["trainable_parameters"], "preset": preset}
        print(json.dumps(record), file=sys.stderr)
        return record

    def run(self):
        options = self.options
        records = []
        for preset in options.preset:
            whole = self.train(f"whole-{preset}", preset=preset)
            cache = f"cache-{preset}"
            first = self.train(f"first-{preset}", options.fill_limit * MIB, epochs=1, keep=cache, preset=preset)
            cached = self.train(f"cached-{preset}", options.cached_limit * MIB, keep=cache, preset=preset)
            records += [whole, first, cached]
            if cached["digest"] != whole["digest"]:
                sys.exit(f"memory.py: the adapters differ: {whole['digest']} and {cached['digest']}")
            shutil.rmtree(os.path.join(self.directory, cache), ignore_errors=True)
        return records


def text(records, options):
    def size(value):
        return "–" if value is None else f"{value / MIB:,.0f} MiB"

    def time_of(record):
        epochs = [epoch["seconds"] for epoch in record["epochs"]]
        fill = [] if record["fill_seconds"] is None else [record["fill_seconds"]]
        return ", ".join(f"{value:.1f}" for value in fill), ", ".join(f"{value:.1f}" for value in epochs)

    rows = []
    for record in records:
        fill, epochs = time_of(record)
        rows.append([
            f"`{record['preset']}`, {record['name'].split('-')[0]}", size(record["limit_bytes"]),
            size(record["group_peak_bytes"]), size(record["resident_peak_bytes"]), fill or "–", epochs,
            record["digest"][:16]])
    head = ["run", "limit", "group's peak", "process' peak", "fill, s", "epochs, s", "adapter"]
    weights = os.path.getsize(os.path.join(options.cache, options.shape, "model.safetensors"))
    intro = (
        f"{options.shape} with random weights ({size(weights)}), {options.samples} samples of {options.tokens} tokens, "
        f"{options.threads} threads. The group's peak\ncounts files that were read and written, up to the limit.")
    return intro + "\n\n" + report.table(head, rows)


def main():
    parser = argparse.ArgumentParser(prog="scripts/benchmark memory", description=__doc__)
    parser.add_argument("--hearth", required=True)
    parser.add_argument("--benchmark", required=True)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--shape", default="t5-large", choices=["t5-base", "t5-large"])
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fill-limit", type=int, default=1024, help="MiB of the first epoch's group")
    parser.add_argument("--cached-limit", type=int, default=512, help="MiB of the cached epochs' group")
    parser.add_argument("--preset", action="append", choices=["default", "timing", "lst"])
    parser.add_argument("--json")
    parser.add_argument("--document")
    options = parser.parse_args()
    options.preset = options.preset or ["default"]
    records = Bench(options).run()
    table = text(records, options)
    print(table)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine.description(), "runs": records}, file, indent=2)
    if options.document:
        report.replace(options.document, table, BEGIN, END)


if __name__ == "__main__":
    main()
