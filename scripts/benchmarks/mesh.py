"""Measures a household of real daemons, the transport alone, and the simulator, in one run."""
import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time

import machine
import mesh_report
from mesh_lab import Household, Lab, LabFailure, event, parsed, quiet_share

PARTS = ["start", "pairing", "crash", "sleep", "idle", "transport", "simulator"]


def say(text):
    print(f"scripts/benchmark: {text}", file=sys.stderr, flush=True)


class Counts:
    """How often everything is repeated; --quick shows that it works and proves nothing."""

    def __init__(self, quick):
        self.starts = 3 if quick else 20
        self.pairings = 2 if quick else 10
        self.sizes = [3] if quick else [3, 5, 8]
        self.crashes = 2 if quick else 12
        self.sleeps = 1 if quick else 6
        self.long_sleep_seconds = 20 if quick else 45
        self.settle_seconds = 15 if quick else 30
        self.idle_seconds = 20 if quick else 60
        self.mebibytes = 128 if quick else 1024
        self.rounds = 1 if quick else 3
        self.handshakes = 100 if quick else 500
        self.seeds = 10 if quick else 100
        self.swarm_seeds = 20 if quick else 500
        self.loss_hours = 1 if quick else 20


class Run:
    """One benchmark run: a lab, and the figures that were found in it."""

    def __init__(self, options):
        self.options = options
        self.counts = Counts(options.quick)
        self.lab = None
        self.figures = {}
        self.failures = {}
        self.report = {
            "machine": machine.description(), "quick": options.quick, "load_before": quiet_share(),
            "figures": self.figures, "failures": self.failures}

    def measure(self):
        parts = [part for part in PARTS if part in self.options.only]
        possible, why = Lab.is_possible()
        loopback = self.options.loopback or not possible
        self.report["loopback"] = loopback
        if loopback and not self.options.loopback:
            say(f"no namespaces here ({' '.join(why)}); daemons run on loopback without Avahi and beacons")
        for part in parts:
            say(f"{part} …")
            began = time.perf_counter()
            try:
                if part not in ("transport", "simulator"):
                    self.open_lab(part, loopback)
                getattr(self, part)()
            except (LabFailure, subprocess.CalledProcessError) as failure:
                self.failures[part] = str(failure)
                say(f"{part} failed: {failure}")
            finally:
                self.close_lab()
            say(f"{part}: {time.perf_counter() - began:.0f} s")

    def open_lab(self, part, loopback):
        count = {"start": 2, "pairing": 2, "crash": max(self.counts.sizes)}.get(part, 3)
        self.lab = Lab(count, self.options.hearth, loopback)

    def close_lab(self):
        if self.lab:
            self.lab.close()
        self.lab = None

    # The daemons

    def start(self):
        """From `hearth up` on the second of two paired devices to its authenticated session with the first."""
        household = Household(self.lab, "start", 2)
        household.up(1)
        household.up(2)
        for host in (1, 2):
            household.daemons[host].wait_for(event("connected"), 30, "first session")
            self.lab.wait_until_peers_are_known(host, household.home)
        household.close()
        if self.lab.loopback:
            self.figures["start, listed peer"] = self.starts(household, [], forgets=True)
            return
        holders = [self.lab.hold_beacon_port(host) for host in (1, 2)]
        self.figures["start, known address"] = self.starts(household, ["--no-avahi"], forgets=False)
        self.figures["start, Avahi"] = self.starts(household, [], forgets=True, published=True)
        for holder in holders:
            holder.stop(signal.SIGKILL)
        self.figures["start, beacon"] = self.starts(household, ["--no-avahi"], forgets=True)

    def starts(self, household, more, forgets, published=False):
        seconds = []
        for _ in range(self.counts.starts):
            if forgets:
                for host in (1, 2):
                    self.lab.forget_peers(host, household.home)
            browser = self.lab.start(1, "avahi-browse", "--parsable", "_hearth-mesh._tcp") if published else None
            first = household.up(1, more)
            if browser:
                browser.wait_for(lambda line: line.startswith("+"), 20, "published service")
                browser.stop(signal.SIGKILL)
            second = household.up(2, more)
            moment, _ = second.wait_for(event("connected"), 60, "session")
            first.wait_for(event("connected"), 30, "session")
            seconds.append(moment - second.started)
            household.close()
        return seconds

    def pairing(self):
        """From `hearth join CODE` to its end, with an inviter that says yes at once."""
        inviter = Household(self.lab, "inviter", 1)
        inviter.up(1)
        ways = {"pairing, address given": ["--address", self.lab.address(1)]}
        if not self.lab.loopback:
            ways["pairing, inviter found"] = []
        for name, more in ways.items():
            seconds = []
            for number in range(self.counts.pairings):
                invite = self.lab.hearth_on(1, "inviter", "invite", "--yes", "--json")
                _, invited = invite.wait_for(event("invited"), 20, "code")
                home = f"joiner-{len(self.figures)}-{number}"
                _, time_taken = self.lab.run(
                    2, home, "join", invited["invitation"], "--name", home, "--json", *more)
                invite.finish(30)
                seconds.append(time_taken)
            self.figures[name] = seconds
        inviter.close()

    def crash(self):
        """From `kill -9` of a daemon to "unreachable" on each of the others."""
        for size in self.counts.sizes:
            household = self.running_household(f"crash-{size}", size)
            dice = random.Random(size)
            seconds = []
            for _ in range(self.counts.crashes):
                victim = dice.randint(1, size)
                others = [host for host in range(1, size + 1) if host != victim]
                household.unwatch(victim)
                moment = time.time()
                household.down(victim, signal.SIGKILL)
                seconds += [
                    household.wait_for_state(host, victim, ["unreachable"], moment, 40) - moment for host in others]
                again = time.time()
                household.up(victim)
                household.watch(victim)
                household.wait_until_all_are_in(range(1, size + 1), again)
            self.figures[f"crash, {size} devices"] = seconds
            household.close()

    def sleep(self):
        """From waking a host to both others having it in again; it never took them for gone."""
        household = self.running_household("sleep", 3)
        # Sessions outlive a short sleep; after a long one everything begins anew.
        for name, longer in (("short", 0), ("long", self.counts.long_sleep_seconds)):
            self.figures[f"back after sleep, {name}"] = [
                self.time_of_wake(household, longer) for _ in range(self.counts.sleeps)]
        household.close()

    def time_of_wake(self, household, longer):
        before = time.time()
        self.lab.household("sleep", "3")
        for host in (1, 2):
            household.wait_for_state(host, 3, ["unreachable"], before, 60)
        time.sleep(longer)
        moment = time.time()
        self.lab.household("wake", "3")
        back = max(household.wait_for_state(host, 3, ["alive"], moment, 60) for host in (1, 2))
        household.wait_until_all_are_in((1, 2, 3), time.time())
        return back - moment

    def running_household(self, home, size):
        household = Household(self.lab, home, size)
        for host in range(1, size + 1):
            household.up(host)
            household.watch(host)
        household.wait_until_all_are_in(range(1, size + 1))
        return household

    def idle(self):
        """Bytes a second that each of three devices sends when nothing happens, by the interface's counters."""
        if self.lab.loopback:
            say("idle traffic needs a network of its own; left out")
            return
        household = self.running_household("idle", 3)
        for host in (1, 2, 3):
            household.unwatch(host)
        # Nothing else to wait for: quiet is what is measured.
        time.sleep(self.counts.settle_seconds)
        before = [(time.time(), self.lab.sent_bytes(host)) for host in (1, 2, 3)]
        time.sleep(self.counts.idle_seconds)
        after = [(time.time(), self.lab.sent_bytes(host)) for host in (1, 2, 3)]
        self.figures["idle traffic"] = [
            (sent - old) / (now - then) for (then, old), (now, sent) in zip(before, after)]
        household.close()

    # Without daemons

    def transport(self):
        """Handshakes and a bulk stream between two processes, beside bare TCP and openssl, by hearth-benchmark."""
        def ask(*words):
            done = subprocess.run(
                [self.options.benchmark, "mesh", *words, "--json"], check=True, capture_output=True, text=True)
            return json.loads(done.stdout)
        self.report["handshake"] = ask("handshake", "--sessions", str(self.counts.handshakes))
        self.report["stream"] = ask(
            "stream", "--mebibytes", str(self.counts.mebibytes), "--rounds", str(self.counts.rounds))

    def simulator(self):
        """What the simulator measures in virtual time, and whether every rule held."""
        runs = {}
        for size in (3, 5, 8, 12):
            runs[f"crash, {size} devices"] = self.simulate("crash", self.counts.seeds, size)
        for scenario in ("sleep", "partition", "quiet"):
            runs[scenario] = self.simulate(scenario, self.counts.seeds)
        runs["loss-hour"] = self.simulate("loss-hour", self.counts.loss_hours)
        runs["swarm"] = self.simulate("swarm", self.counts.swarm_seeds)
        self.report["simulator"] = runs

    def simulate(self, scenario, seeds, devices=None):
        more = [] if devices is None else ["--devices", str(devices)]
        done = subprocess.run(
            [self.options.hearth, "simulate", "--scenario", scenario, "--seed", "1", "--seeds", str(seeds),
             "--json", *more], capture_output=True, text=True)
        runs = [run for run in map(parsed, done.stdout.splitlines()) if run]
        if done.returncode not in (0, 70) or len(runs) != seeds:
            raise LabFailure(f"hearth simulate --scenario {scenario} ended with {done.returncode}: "
                             f"{done.stderr.strip()[-300:]}")
        return [{key: run.get(key) for key in (
            "seed", "passed", "detection_seconds", "wake_seconds", "start_seconds", "agreement_seconds",
            "false_removals", "idle_bytes_per_second", "command")} for run in runs]


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/benchmark mesh", description=__doc__)
    parser.add_argument("--hearth", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--benchmark", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="few repetitions: shows that it works, proves nothing")
    parser.add_argument("--loopback", action="store_true", help="daemons on loopback even where namespaces are allowed")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to measure, of " + ",".join(PARTS))
    parser.add_argument("--json", help="writes every figure as JSON")
    parser.add_argument("--document", help="replaces the table between the mesh marks of a Markdown file")
    parser.add_argument("--earlier", metavar="FILE",
                        help="takes the parts that are not measured now from what --json wrote before")
    options = parser.parse_args()
    options.only = options.only.split(",")
    unknown = [part for part in options.only if part not in PARTS]
    if unknown:
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    options.hearth, options.benchmark = map(os.path.abspath, (options.hearth, options.benchmark))
    return options


def take_earlier(report, earlier):
    """Adds what the earlier run measured and this one did not; what both have is this run's."""
    for key, value in earlier.items():
        if isinstance(value, dict) and isinstance(report.get(key), dict):
            for name, figure in value.items():
                report[key].setdefault(name, figure)
        elif report.get(key) is None:
            report[key] = value


def main():
    options = arguments()
    # A terminated run still removes its lab.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    run = Run(options)
    began = time.perf_counter()
    try:
        run.measure()
    finally:
        run.close_lab()
    run.report["minutes"] = (time.perf_counter() - began) / 60
    if options.earlier:
        with open(options.earlier) as file:
            take_earlier(run.report, json.load(file))
    text = mesh_report.markdown(run.report)
    print(text)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(run.report, file, indent=1, sort_keys=True)
            file.write("\n")
    if options.document:
        mesh_report.replace(options.document, text)
    if run.failures:
        raise SystemExit(f"scripts/benchmark: {len(run.failures)} parts failed: {', '.join(run.failures)}")


if __name__ == "__main__":
    main()
