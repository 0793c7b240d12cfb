"""Measures the exact ring over encrypted sessions beside PyTorch's unencrypted gloo ring, in pairs, in one run."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

import machine
import report
from mesh_lab import HOUSEHOLD, Lab, LabFailure, quiet_share

HERE = os.path.dirname(os.path.abspath(__file__))
BEGIN, END = "<!-- ring begin -->", "<!-- ring end -->"
LINK_BITS = 1e9
LINK_TARGET = 0.85


def say(text):
    print(f"scripts/benchmark: {text}", file=sys.stderr, flush=True)


class Member:
    """A process that reduces once for each line that it reads."""

    def __init__(self, command, environment=None):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise LabFailure(f"{self.process.args[0]}: a member of the ring has ended")
        return line.rstrip("\n")

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Ring:
    """Members of one kind; `round` is one reduction of all."""

    def __init__(self, members):
        self.members = members

    def round(self):
        """Seconds of the slowest member, and processor seconds of all."""
        for member in self.members:
            member.tell("round")
        answers = [member.line().split() for member in self.members]
        if any(answer[2] != "right" for answer in answers):
            raise LabFailure(f"a ring gave wrong sums: {answers}")
        return max(float(answer[0]) for answer in answers), sum(float(answer[1]) for answer in answers)

    def stop(self):
        for member in self.members:
            member.process.stdin.close()
        for member in self.members:
            member.stop()


def hearth_ring(options, count, prefix, host):
    members = [
        Member([*prefix(place), options.benchmark, "ring", "member", "--place", str(place), "--members", str(count),
                "--host", host(place), "--mebibytes", str(options.mebibytes), "--element", options.element])
        for place in range(count)]
    addresses = " ".join([member.line() for member in members])
    for member in members:
        member.tell(addresses)
    return Ring(members)


def gloo_ring(options, count, prefix, interface, directory):
    environment = dict(os.environ, GLOO_SOCKET_IFNAME=interface, OMP_NUM_THREADS="1")
    store = os.path.join(directory, f"gloo-{interface}-{count}")
    members = [
        Member([*prefix(place), options.python, os.path.join(HERE, "gloo_ring.py"), str(place), str(count),
                str(options.mebibytes), options.element, store], environment)
        for place in range(count)]
    return Ring(members), [member.line() for member in members][0].partition("torch ")[2]


def measured(options, count, prefix, host, interface, directory):
    """Both rings in turn: seconds and processor seconds of each round after a first one."""
    rings = {"hearth": hearth_ring(options, count, prefix, host)}
    version = None
    if options.python:
        rings["gloo"], version = gloo_ring(options, count, prefix, interface, directory)
    figures = {name: {"seconds": [], "cpu_seconds": []} for name in rings}
    try:
        for number in range(options.rounds + 1):
            for name, ring in rings.items():
                seconds, cpu = ring.round()
                if number > 0:
                    figures[name]["seconds"].append(seconds)
                    figures[name]["cpu_seconds"].append(cpu)
    finally:
        for ring in rings.values():
            ring.stop()
    size = options.mebibytes << 20
    # What every all-reduce has to send at least, and a ring sends (Patarasuk and Yuan 2009).
    sent = 2 * (count - 1) / count * size
    for one in figures.values():
        one["megabytes_per_second"] = [sent / 1e6 / seconds for seconds in one["seconds"]]
        one["cpu_seconds_per_gigabyte"] = [cpu / (count * sent / 1e9) for cpu in one["cpu_seconds"]]
    result = {"members": count, "sent_bytes": sent, "figures": figures, "torch": version}
    if "gloo" in figures:
        result["ratios"] = [
            gloo / own for gloo, own in zip(figures["gloo"]["seconds"], figures["hearth"]["seconds"])]
    return result


def on_loopback(options, directory):
    results = []
    for count in options.members:
        say(f"{count} members on loopback")
        results.append(measured(options, count, lambda _: [], lambda _: "127.0.0.1", "lo", directory))
    return results


def on_links(options, directory):
    """The same between hosts of scripts/household, with links of 1 Gbit/s and 0.2 ms."""
    possible, why = Lab.is_possible()
    if not possible:
        say(f"no links of 1 Gbit/s: {' '.join(why)}")
        return []
    results = []
    lab = Lab(max(options.members), None, loopback=False, name="ring")
    try:
        for count in options.members:
            say(f"{count} members on links of 1 Gbit/s")
            results.append(measured(
                options, count, lambda place: [HOUSEHOLD, "--name", "ring", "exec", str(place + 1)],
                lambda place: f"10.77.0.{place + 1}", "eth0", directory))
    finally:
        lab.close()
    return results


def rows(results, links):
    for result in results:
        hearth, gloo = result["figures"]["hearth"], result["figures"].get("gloo")
        rate = statistics.median(hearth["megabytes_per_second"])
        row = [f"{result['members']} members, {'1 Gbit/s' if links else 'loopback'}", f"{rate:.0f} MB/s"]
        row += [f"{statistics.median(hearth['cpu_seconds_per_gigabyte']):.2f} s"]
        if gloo:
            ratios = result["ratios"]
            row += [f"{statistics.median(gloo['megabytes_per_second']):.0f} MB/s",
                    f"{statistics.median(gloo['cpu_seconds_per_gigabyte']):.2f} s",
                    f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"]
        else:
            row += ["–", "–", "–"]
        share = rate * 8e6 / LINK_BITS
        row += [f"{100 * share:.0f} % ({report.verdict(share, LINK_TARGET)})" if links else "–"]
        yield row


def markdown(run):
    options, facts = run["options"], run["machine"]
    torch = next((result["torch"] for result in run["loopback"] + run["links"] if result["torch"]), None)
    lines = [
        f"- {facts['processor']}, {facts['processors']} processors, {facts['system']}; all members share them",
        f"- vectors of {options['mebibytes']} MiB of {options['element']}, medians of {options['rounds']} rounds in turn",
        "- Hearth: encrypted bulk sessions, pieces of 1 MiB; "
        + (f"peer: PyTorch {torch}, gloo, not encrypted" if torch else "no peer was measured"),
        f"- load before the run: {run['load_before']:.2f}"
        + (" (**not a quiet machine: do not publish**)" if run["load_before"] > 0.25 * facts["processors"] else ""),
    ]
    table = report.table(
        ["", "Hearth, a member sends", "CPU a GB sent", "gloo", "CPU a GB", "times as fast as gloo",
         f"of the link (≥ {100 * LINK_TARGET:.0f} %)"],
        [*rows(run["loopback"], False), *rows(run["links"], True)])
    return "\n".join(lines) + "\n\n" + table


def main():
    parser = argparse.ArgumentParser(prog="scripts/benchmark ring", description=__doc__)
    parser.add_argument("--benchmark", required=True, help="the program hearth-benchmark")
    parser.add_argument("--python", help="a Python with PyTorch; without it nothing is compared")
    parser.add_argument("--members", type=lambda text: [int(word) for word in text.split(",")], default=[2, 3, 5])
    parser.add_argument("--mebibytes", type=int, default=64)
    parser.add_argument("--element", choices=["int32", "int64"], default="int64")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="2 members and 3 rounds: shows that it works")
    parser.add_argument("--loopback", action="store_true", help="without links of 1 Gbit/s")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--document", metavar="FILE")
    options = parser.parse_args()
    if options.quick:
        options.members, options.rounds = [2], 3
    run = {"machine": machine.description(), "load_before": quiet_share(), "options": vars(options)}
    try:
        with tempfile.TemporaryDirectory() as directory:
            run["loopback"] = on_loopback(options, directory)
            run["links"] = [] if options.loopback else on_links(options, directory)
    except LabFailure as failure:
        sys.exit(f"scripts/benchmark: {failure}")
    print(markdown(run))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(run, file, indent=1)
    if options.document:
        report.replace(options.document, markdown(run), BEGIN, END)


if __name__ == "__main__":
    main()
