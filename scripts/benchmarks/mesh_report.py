"""The table of the mesh in docs/PERFORMANCE.md from the figures of one run."""
import math
import os

import report

BEGIN, END = "<!-- mesh begin -->", "<!-- mesh end -->"


def percentile(values, share):
    """The smallest value that at least this share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def replace(path, text):
    report.replace(path, text, BEGIN, END)


def seconds(value):
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f}".rstrip("0").rstrip(".") + " s"


class Table:
    """Rows of figures with their targets; a missed one is printed in bold."""

    def __init__(self):
        self.rows = []

    def add(self, name, values, show, *targets):
        """A row; each target is a limit and the share of the values that has to keep it."""
        if not values:
            return
        limits = ", ".join(f"≤ {show(limit)} ({self.quantile(share)})" for limit, share in targets)
        missed = [self.quantile(share) for limit, share in targets if percentile(values, share) > limit]
        verdict = self.verdict(not missed) + (f" ({', '.join(missed)})" if missed and len(targets) > 1 else "")
        self.rows.append([
            name, show(percentile(values, 0.5)), show(percentile(values, 0.95)), show(percentile(values, 0.99)),
            str(len(values)), limits or "–", verdict if targets else "–"])

    @staticmethod
    def quantile(share):
        return "all" if share == 1 else f"p{100 * share:.0f}"

    @staticmethod
    def verdict(is_reached):
        return "reached" if is_reached else "**missed**"

    def text(self):
        return report.table(["", "p50", "p95", "p99", "samples", "target", ""], self.rows)


CRASH_TARGETS = ((8.0, 0.5), (12.0, 0.99))
WAKE_TARGET = (3.0, 1)
IDLE_TARGET = (600, 1)
START_TARGETS = {"known address": (0.15, 0.95), "Avahi": (1.5, 0.95), "beacon": (1.5, 0.95)}


def bytes_a_second(value):
    return f"{value:.0f} B/s"


def household_table(run):
    table = Table()
    for name, values in run["figures"].items():
        part, _, way = name.partition(", ")
        if part == "start":
            targets = [START_TARGETS[way]] if way in START_TARGETS else []
            table.add(f"`hearth up` to a session: {way}", values, seconds, *targets)
        elif part == "pairing":
            # Looking for the inviter is no work of the machine, so the target is for the address given.
            targets = [(1.0, 0.95)] if way == "address given" else []
            table.add(f"`hearth join` by code: {way}", values, seconds, *targets)
        elif part == "crash":
            table.add(f"`kill -9` to unreachable, {way}", values, seconds, *CRASH_TARGETS)
        elif part == "back after sleep":
            table.add(f"wake after a {way} sleep to in again on both others", values, seconds, WAKE_TARGET)
        elif part == "idle traffic":
            table.add("idle, sent by a device, all that its interface counts", values, bytes_a_second, IDLE_TARGET)
    return table.text() if table.rows else None


def transport_table(run):
    rows = []
    handshake, stream = run.get("handshake"), run.get("stream")
    if handshake:
        for side, key in (("dialling", "pureDialling"), ("accepting", "pureAccepting")):
            value = handshake[key]["median"]
            rows.append([f"handshake, processor time {side}", f"{value:.3f} ms", "≤ 0.5 ms", Table.verdict(value <= 0.5)])
        rows.append(["handshake on loopback, connection to proof",
                     f"{handshake['latency']['median']:.2f} ms (p95 {handshake['latencyP95']:.2f} ms)", "–", "–"])
    if stream:
        value = stream["encrypted"]["median"]
        rows.append(["encrypted bulk stream between two processes", f"{value:.0f} MB/s", "≥ 1,000 MB/s",
                     Table.verdict(value >= 1000)])
        rows.append(["the same bytes over bare TCP", f"{stream['plain']['median']:.0f} MB/s", "–", "–"])
        rows.append(["encrypted / bare", f"{stream['ratio']['median']:.2f}", "–", "–"])
        rows.append(["sealing / opening on one core",
                     f"{stream['cipher']['seal']['median']:.0f} / {stream['cipher']['open']['median']:.0f} MB/s", "–", "–"])
        if stream.get("openssl"):
            rows.append(["`openssl speed`, chacha20-poly1305", f"{stream['openssl']['median']:.0f} MB/s", "–", "–"])
    return report.table(["", "median", "target", ""], rows) if rows else None


def simulator_table(run):
    simulated = run.get("simulator")
    if not simulated:
        return None
    table = Table()
    for name, runs in simulated.items():
        def all_of(key):
            return [value for one in runs for value in one[key] or []]
        if name.startswith("crash"):
            table.add(f"crash to unreachable, {name[len('crash, '):]}", all_of("detection_seconds"), seconds, *CRASH_TARGETS)
        elif name == "sleep":
            table.add("wake to everybody in again", all_of("wake_seconds"), seconds, WAKE_TARGET)
        elif name == "partition":
            table.add("end of a partition to equal views", [one["agreement_seconds"] for one in runs], seconds, (30.0, 1))
        elif name == "quiet":
            idle = [one["idle_bytes_per_second"] for one in runs if one["idle_bytes_per_second"] is not None]
            table.add("idle, sent by a device", idle, bytes_a_second, IDLE_TARGET)
        elif name == "loss-hour":
            table.add("false removals in an hour of 5 % loss", [one["false_removals"] for one in runs], str, (0, 1))
    passed = sum(one["passed"] for runs in simulated.values() for one in runs)
    failed = [one for runs in simulated.values() for one in runs if not one["passed"]]
    lines = [table.text(), "", f"{passed} of {passed + len(failed)} simulated runs kept every rule"
             + (f" (swarm: {len(simulated['swarm'])} seeds)." if "swarm" in simulated else ".")]
    lines += [f"**Failed:** `{one['command']}`" for one in failed[:5]]
    return "\n".join(lines)


def facts(run):
    machine = run["machine"]
    is_loud = run["load_before"] > 0.25 * machine["processors"]
    where = ("daemons on loopback: no Avahi, no beacons, no idle traffic" if run.get("loopback")
             else "daemons in network namespaces of `scripts/household`, profile `lan`, each with its own Avahi")
    lines = [
        f"- {machine['processor']}, {machine['processors']} processors, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['system']}",
        f"- {where}; all devices share the processors",
        f"- load before the run: {run['load_before']:.2f}"
        + (" (**not a quiet machine: do not publish**)" if is_loud else "")
        + ("; `--quick`: too few samples for a claim" if run["quick"] else ""),
    ]
    lines += [f"- **{part} failed:** {why}" for part, why in run["failures"].items()]
    return "\n".join(lines)


def markdown(run):
    """All tables of a run as Markdown."""
    parts = [facts(run)]
    for title, table in (("Real daemons:", household_table(run)), ("Transport alone:", transport_table(run)),
                         ("Simulator, in virtual time:", simulator_table(run))):
        if table:
            parts += [title, table]
    return "\n\n".join(parts) + os.linesep
