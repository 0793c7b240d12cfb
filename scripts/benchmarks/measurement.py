"""Alternated steps of several workers, and what follows from them.

Slow drift (other tenants, temperature, memory layout) touches neighbouring steps alike, so steps alternate
A B A B and the figure that counts is the median of the ratios of neighbours, not a ratio of two separate runs.
"""
import os
import statistics
import time

import machine


class Recording:
    """The counted steps of one workload."""

    def __init__(self):
        self.steps = []  # (round, cycle, worker name, seconds, samples)
        self.others = []  # share of the machine that other processes took, one a counted cycle
        self.repeated = 0  # cycles that were thrown away because others took more than the limit

    def seconds(self, name):
        """Seconds of every counted step of a worker."""
        return [step[3] for step in self.steps if step[2] == name]

    def median(self, name):
        """Median seconds of a worker's step."""
        return statistics.median(self.seconds(name))

    def rate(self, name):
        """Samples a second of a worker over all its counted steps."""
        counted = [step for step in self.steps if step[2] == name]
        return sum(step[4] for step in counted) / sum(step[3] for step in counted)

    def ratios(self, name, peer):
        """How many times faster `name` is than `peer`, one figure a cycle (or a round, when they share no cycle)."""
        for key in (1, 0):
            groups = {}
            for step in self.steps:
                groups.setdefault(step[key], {}).setdefault(step[2], []).append(step[3])
            pairs = [group for group in groups.values() if name in group and peer in group]
            if pairs:
                return [statistics.median(pair[peer]) / statistics.median(pair[name]) for pair in pairs]
        return []

    def summary(self):
        """What the JSON report keeps."""
        names = sorted({step[2] for step in self.steps})
        return {
            "seconds": {name: [round(value, 6) for value in self.seconds(name)] for name in names},
            "median_seconds": {name: self.median(name) for name in names},
            "samples_per_second": {name: self.rate(name) for name in names},
            "others_share": [round(share, 4) for share in self.others],
            "repeated_cycles": self.repeated,
        }


def run_cycle(workers, all_workers):
    """One step of each worker in turn, with the share of the machine that strangers took meanwhile."""
    pids = [worker.pid for worker in all_workers] + [os.getpid()]
    busy, own, start = machine.busy_seconds(), machine.process_seconds(pids), time.perf_counter()
    answers = [(worker.name, worker.ask("step")) for worker in workers]
    elapsed = time.perf_counter() - start
    stranger = (machine.busy_seconds() - busy) - (machine.process_seconds(pids) - own)
    return answers, max(0.0, stranger / (elapsed * os.cpu_count()))


def record(cycles, rounds, most_others, progress):
    """Runs one uncounted round, then `rounds` rounds of the cycles (worker list, repetitions).

    A cycle in which others took more than `most_others` of the machine is repeated; after as many repetitions as
    there are counted cycles the next ones count as they are, and the recording shows it.
    """
    everyone = []
    for workers, _ in cycles:
        everyone += [worker for worker in workers if worker not in everyone]
    recording = Recording()
    limit = rounds * sum(repetitions for _, repetitions in cycles)
    for number in range(rounds + 1):
        for workers, repetitions in cycles:
            counted = 0
            while counted < repetitions:
                answers, others = run_cycle(workers, everyone)
                if number == 0:
                    counted += 1
                    continue
                if others > most_others and recording.repeated < limit:
                    recording.repeated += 1
                    continue
                cycle = len(recording.others)
                recording.others.append(others)
                recording.steps += [
                    (number, cycle, name, answer["seconds"], answer["samples"]) for name, answer in answers]
                counted += 1
        progress(number, rounds)
    return recording
