"""Hosts of scripts/household with Hearth on them: processes whose lines carry the time at which they were read."""
import json
import os
import signal
import subprocess
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
HOUSEHOLD = os.path.join(os.path.dirname(HERE), "household")
NOT_ALLOWED = 77
BEACON_PORT = 24327

# Takes the beacon port without sharing it, so that a daemon on the host goes without beacons.
HOLD_BEACON_PORT = f"""
import socket, sys
held = []
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    held.append(socket.socket(family, socket.SOCK_DGRAM))
    if family == socket.AF_INET6:
        held[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    held[-1].bind((address, {BEACON_PORT}))
print("held", flush=True)
sys.stdin.read()
"""


class LabFailure(Exception):
    """Something did not happen that has to, with what was seen instead."""


class Program:
    """A running program of a host; its lines are kept with the time of reading them.

    `started` is the time just before the program itself was executed: what the lab needs to enter a host does not
    count. All times are of the wall clock, which the shell and this process share.
    """

    def __init__(self, command, label):
        self.label = label
        self.lines = []
        self.started = None
        self._changed = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.errors = []
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._read_errors, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            now = time.time()
            with self._changed:
                if self.started is None:
                    self.started = int(line) / 1e9
                else:
                    self.lines.append((now, line.rstrip("\n")))
                    # Only a watch says so much; what it said long ago nobody asks for.
                    del self.lines[:-20_000]
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read_errors(self):
        for line in self.process.stderr:
            self.errors.append(line.rstrip("\n"))
            del self.errors[:-50]

    def wait_for(self, wanted, seconds, what, since=0.0):
        """The first line read at or after `since` for which `wanted` gives something, as (time, what it gave)."""
        deadline = time.monotonic() + seconds
        seen = 0
        with self._changed:
            while True:
                while seen < len(self.lines):
                    moment, line = self.lines[seen]
                    seen += 1
                    found = wanted(line) if moment >= since else None
                    if found:
                        return moment, found
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    last = (self.errors or [line for _, line in self.lines[-3:]] or ["nothing"])[-3:]
                    why = f"ended without {what}" if self._ended else f"no {what} within {seconds} s"
                    raise LabFailure(f"{self.label}: {why}; last: {' | '.join(last)[:600]}")
                self._changed.wait(left)

    def finish(self, seconds):
        """Waits for the program's own end; its lines, and the time from its start to its end."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise LabFailure(f"{self.label}: did not end within {seconds} s") from None
        end = time.time()
        with self._changed:
            self._changed.wait_for(lambda: self._ended, 5)
        if code != 0:
            raise LabFailure(f"{self.label}: ended with {code}: {' | '.join(self.errors[-3:])}")
        return [line for _, line in self.lines], end - self.started

    def stop(self, number=signal.SIGTERM, seconds=20):
        """Ends the program with a signal and waits for its end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise LabFailure(f"{self.label}: did not end within {seconds} s of signal {number}") from None
        self.process.stdin.close()


def event(name):
    """Recognises the daemon's log line of an event, and gives its fields."""
    def wanted(line):
        fields = parsed(line)
        return fields if fields and fields.get("event") == name else None
    return wanted


def parsed(line):
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


class Lab:
    """A lab of hosts, by namespaces or on loopback; `close` removes all of it."""

    def __init__(self, count, hearth, loopback, name="benchmark"):
        self.count, self.hearth, self.loopback, self.name = count, hearth, loopback, name
        self.state = os.path.join(os.environ.get("XDG_RUNTIME_DIR") or "/tmp", f"hearth-lab-{name}")
        self._programs = []
        self.household("down")
        self.household("up", str(count), *(["--loopback"] if loopback else []))

    @staticmethod
    def is_possible():
        """Whether this machine allows namespaces, and if not, why."""
        check = subprocess.run([HOUSEHOLD, "check"], capture_output=True, text=True)
        return check.returncode == 0, (check.stderr or check.stdout).strip().splitlines()[-1:]

    def household(self, *words):
        done = subprocess.run([HOUSEHOLD, "--name", self.name, *words], capture_output=True, text=True)
        if done.returncode != 0:
            raise LabFailure(f"scripts/household {' '.join(words)}: {done.stderr.strip()[-600:]}")
        return done.stdout

    def start(self, host, *command, home=None, label=None):
        """Starts a command on a host; `home` is the name of one of its state directories."""
        environment = [] if home is None else ["env", f"HEARTH_HOME={self.home(host, home)}"]
        words = [HOUSEHOLD, "--name", self.name, "exec", str(host), *environment,
                 "sh", "-c", 'date +%s%N; exec "$@"', "sh", *command]
        program = Program(words, label or f"host {host}: {' '.join(command[:3])}")
        self._programs.append(program)
        return program

    def hearth_on(self, host, home, *words, before=()):
        return self.start(host, *before, self.hearth, *words, home=home, label=f"host {host}: hearth {' '.join(words)}"[:80])

    def run(self, host, home, *words, seconds=60):
        """Runs a short command of Hearth to its end; its lines, and how long it took."""
        return self.hearth_on(host, home, *words).finish(seconds)

    def home(self, host, home):
        return os.path.join(self.state, str(host), "hearth", home)

    def peers_file(self, host, home):
        """What a device remembers of others' addresses."""
        return os.path.join(self.home(host, home), "household", "peers")

    def forget_peers(self, host, home):
        if os.path.exists(self.peers_file(host, home)):
            os.remove(self.peers_file(host, home))

    def wait_until_peers_are_known(self, host, home, seconds=20):
        """A device writes an address down once its session has answered."""
        deadline = time.monotonic() + seconds
        while not os.path.exists(self.peers_file(host, home)):
            if time.monotonic() > deadline:
                raise LabFailure(f"host {host} has not written down its peers within {seconds} s")
            time.sleep(0.05)

    def address(self, host):
        """Where a host's daemon listens, as --address takes it."""
        if not self.loopback:
            return f"10.77.0.{host}"
        with open(os.path.join(self.state, "loopback")) as file:
            return f"127.0.0.1:{int(file.read()) + host}"

    def hold_beacon_port(self, host):
        """Keeps the daemon of a host without beacons until the program that is returned is stopped."""
        holder = self.start(host, "python3", "-c", HOLD_BEACON_PORT, label=f"host {host}: holding the beacon port")
        holder.wait_for(lambda line: line == "held", 20, "beacon port")
        return holder

    def sent_bytes(self, host):
        lines, _ = self.start(host, "cat", "/sys/class/net/eth0/statistics/tx_bytes").finish(20)
        return int(lines[0])

    def close(self):
        for program in self._programs:
            if program.process.poll() is None:
                program.process.kill()
        self.household("down")


class Household:
    """Devices of one household on the hosts 1 ... count of a lab, with their daemons."""

    def __init__(self, lab, home, count, more=()):
        """Makes the household; `home` names its state directories, `more` are options of every daemon."""
        self.lab, self.home, self.count, self.more = lab, home, count, list(more)
        self.daemons, self.watches, self.devices = {}, {}, {}
        # What the commands of the daemons begin with, such as `env`.
        self.before = []
        lab.run(1, home, "household", "create", "--name", "device-1", "--json")
        self.up(1)
        for host in range(2, count + 1):
            lines, _ = lab.run(1, home, "invite", "--token", "--json")
            token = parsed(lines[0])["invitation"]
            lab.run(host, home, "join", token, "--name", f"device-{host}", "--address", lab.address(1), "--json")
        self.down(1)

    def up(self, host, more=None):
        """Starts a host's daemon and waits until it listens."""
        options = self.more if more is None else more
        daemon = self.lab.hearth_on(host, self.home, "up", "--json", *options, before=self.before)
        self.daemons[host] = daemon
        daemon.wait_for(event("up"), 30, "listening daemon")
        return daemon

    def down(self, host, number=signal.SIGTERM):
        self.unwatch(host)
        self.daemons.pop(host).stop(number)

    def watch(self, host):
        """Starts to read what the daemon of a host believes."""
        self.watches[host] = self.lab.hearth_on(host, self.home, "peers", "--watch", "--json")

    def unwatch(self, host):
        watch = self.watches.pop(host, None)
        if watch:
            watch.stop(signal.SIGKILL)

    def device(self, host):
        """The name of a host's device, as its daemon's reports have it."""
        if host not in self.devices:
            _, own = self.watches[host].wait_for(
                lambda line: [d["device"] for d in (parsed(line) or {}).get("devices", []) if d["is_self"]],
                30, "report")
            self.devices[host] = own[0]
        return self.devices[host]

    def wait_for_state(self, host, other, states, since, seconds):
        """When the watch of a host first shows another's device in one of some states."""
        device = self.device(other)

        def wanted(line):
            for shown in (parsed(line) or {}).get("devices", []):
                if shown["device"] == device and shown["state"] in states:
                    return shown["state"] != "alive" or shown["path"] != "none"
            return None
        return self.watches[host].wait_for(wanted, seconds, f"'{'/'.join(states)}' of device {other}", since)[0]

    def wait_until_all_are_in(self, hosts, since=0.0, seconds=60):
        for host in hosts:
            for other in hosts:
                if host != other:
                    self.wait_for_state(host, other, ["alive"], since, seconds)

    def close(self):
        for host in sorted(self.daemons):
            self.down(host)


def quiet_share():
    """The load that the machine has beside this benchmark, in processors."""
    return os.getloadavg()[0]
