"""Trains one small job again and again on hosts of scripts/household while devices come and go, and compares the adapters."""
import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time

import churn_report
import machine
from household import rows_of
from mesh_lab import Household, Lab, LabFailure, event, parsed, quiet_share

OWNER = 1
# Seconds that a job may take, that its start may take, and that nothing may happen.
PATIENCE, START_PATIENCE, SILENCE = 300, 90, 75


def say(text):
    print(f"scripts/benchmark: {text}", file=sys.stderr, flush=True)


class Following:
    """What the daemon of one host tells of a job, with the times at which it was read."""

    def __init__(self, program):
        self.program = program

    def events(self):
        return [(moment, fields) for moment, line in list(self.program.lines) if (fields := parsed(line))]

    def is_over(self):
        return self.program.process.poll() is not None


class Job:
    """One submitted job and everybody who follows it."""

    def __init__(self, scene, number, is_long):
        options = scene.options
        self.scene, self.number = scene, number
        self.epochs, batch = (options.long_epochs, options.long_batch) if is_long else (options.epochs, options.batch)
        self.output = os.path.join(scene.directory, f"adapter-{number}")
        self.program = scene.lab.hearth_on(OWNER, scene.household.home, *scene.words(self.output, self.epochs, batch))
        self.followings = [Following(self.program)]
        self.faults = []  # (moment, what was done)
        self.session, self.late = None, None  # when a device that came late had its first session, and which it was
        self.submitted = self.wait(lambda event: event.get("event") == "submitted", START_PATIENCE, "submitted job")
        self.id = self.submitted[1]["job"]

    def follow(self, host):
        """Another device's view of the job, which outlasts the owner's daemon."""
        self.followings.append(Following(
            self.scene.lab.hearth_on(host, self.scene.household.home, "watch", self.id, "--json")))

    def events(self):
        """Everything that anybody told, by time, with the number of the follower who told it."""
        return sorted(((moment, {**fields, "follower": number}) for number, following in enumerate(self.followings)
                       for moment, fields in following.events()), key=lambda pair: pair[0])

    def wait(self, wanted, seconds, what, since=0.0):
        """The first event of any follower for which `wanted` holds."""
        deadline = time.monotonic() + seconds
        while True:
            for moment, fields in self.events():
                if moment >= since and wanted(fields):
                    return moment, fields
            if all(following.is_over() for following in self.followings) or time.monotonic() > deadline:
                last = [line for following in self.followings for line in following.program.errors[-2:]]
                raise LabFailure(f"no {what} within {seconds} s; last: {' | '.join(last)[-400:]}")
            time.sleep(0.02)

    def wait_for_state(self, state, seconds=START_PATIENCE):
        return self.wait(lambda event: event.get("event") == "state" and event.get("state") == state, seconds, state)

    def wait_for_plan(self):
        return self.wait(lambda event: event.get("event") == "planned", START_PATIENCE, "plan")[1]

    def newest_plan(self):
        """The plan of the highest number that anybody was told of."""
        self.wait_for_plan()
        plans = [event for _, event in self.events() if event.get("event") == "planned"]
        return max(plans, key=lambda plan: plan["plan_epoch"])

    def wait_for_share(self, share):
        """Until this share of the job's steps is done."""
        def is_there(event):
            at = position(event)
            return at is not None and at[0] - 1 + at[1] / at[2] >= share * self.epochs
        return self.wait(is_there, PATIENCE, f"{100 * share:.0f} % of the job")

    def wait_for_end(self):
        """Until the owner has the adapter: the time at which the job was over, and the adapter's digest."""
        deadline = time.monotonic() + PATIENCE
        over = None
        while True:
            for moment, event in self.events():
                if event.get("event") == "state" and event.get("state") in ("finished", "failed", "stopped"):
                    over = moment if over is None else min(over, moment)
            now = time.time()
            if over or all(following.is_over() for following in self.followings):
                found = self.scene.report(OWNER, self.id)
                if found and found["state"] in ("finished", "failed", "stopped"):
                    over = over or now
                    if found["state"] != "finished":
                        raise LabFailure(f"the job {found['state']}: {(found.get('failure') or {}).get('message')}")
                    return over, found["result"]["adapter_digest"]
                time.sleep(0.2)
            last = max([self.submitted[0]] + [fault[0] for fault in self.faults]
                       + [following.events()[-1][0] for following in self.followings if following.events()])
            if time.monotonic() > deadline or (not over and now - last > SILENCE):
                raise LabFailure(f"the job does not end; nothing new for {now - last:.0f} s; last: {self.last_words()}")
            time.sleep(0.05)

    def last_words(self):
        events = self.events()
        return json.dumps(events[-1][1])[:300] if events else "nothing"

    def close(self):
        for following in self.followings:
            following.program.stop(signal.SIGKILL)


def position(event):
    """The epoch, the step and the steps of an event that tells of a committed step; nothing for others."""
    if event.get("event") == "epoch" and event.get("mode") in ("live", "cached"):
        return event["epoch"], 1, 1
    if event.get("event") != "progress" or event.get("phase") not in ("live", "cached") or not event.get("steps"):
        return None
    return event["epoch"], event["step"], event["steps"]


class Scene:
    """A household that stays for all jobs of a run; whatever a fault did is undone before the next job."""

    def __init__(self, options, directory):
        self.options, self.directory = options, directory
        self.hosts = list(range(1, options.devices + 1))
        self.lab = Lab(options.devices, options.hearth, options.loopback, name="churn")
        self.jobs = 0
        # Making the household is not what is measured: at full speed.
        self.household = Household(self.lab, "churn", options.devices, [
            "--threads", "1", "--log-level", os.environ.get("HB_LOG", "info")])
        self.frozen = set()
        for host in self.hosts:
            self.household.up(host)
        self.everybody_in()
        for host in self.hosts:
            self.limit(host, options.share)

    def limit(self, host, share):
        if not self.lab.loopback:
            self.lab.household("cpu", str(host), f"{share:g}")

    def words(self, output, epochs, batch):
        options = self.options
        return ["train", "--json", "--model", options.model, "--data", options.data, "--task", "classify",
                "--text-column", "4", "--pair-column", "5", "--label-column", "1", "--header", "--format", "tsv",
                "--output", output, "--epochs", str(epochs), "--batch", str(batch),
                "--micro-batch", str(options.micro_batch), "--max-length", str(options.length), "--seed", "1",
                "--validation-fraction", "0", "--planner", options.planner, "--first-epoch", "hybrid"]

    def report(self, host, job):
        """What a host's daemon says of a job; nothing while it is not there."""
        try:
            lines, _ = self.lab.run(host, self.household.home, "jobs", "--json", seconds=20)
        except LabFailure:
            return None
        found = [report for report in (parsed(lines[-1]) or {}).get("jobs", []) if report["id"] == job]
        return found[0] if found else None

    # What faults do

    def pid(self, host):
        return self.household.daemons[host].process.pid

    def is_up(self, host):
        daemon = self.household.daemons.get(host)
        return daemon is not None and daemon.process.poll() is None

    def kill(self, host):
        self.household.down(host, signal.SIGKILL)

    def freeze(self, host):
        self.frozen.add(host)
        os.kill(self.pid(host), signal.SIGSTOP)

    def thaw(self, host):
        if host in self.frozen and self.is_up(host):
            os.kill(self.pid(host), signal.SIGCONT)
        self.frozen.discard(host)

    def others(self, host):
        return ",".join(str(other) for other in self.hosts if other != host)

    def everybody_in(self):
        """Every device that is up and has a session with every other one."""
        for host in self.hosts:
            self.household.watch(host)
        try:
            self.household.wait_until_all_are_in(self.hosts, seconds=90)
        finally:
            for host in self.hosts:
                self.household.unwatch(host)

    def mend(self):
        """The household as it was: all up, awake, connected and willing."""
        for host in sorted(self.frozen):
            self.thaw(host)
        if not self.lab.loopback:
            self.lab.household("heal")
        for host in self.hosts:
            self.limit(host, self.options.share)
            if not self.lab.loopback:
                self.lab.household("bus", str(host), "start")
                self.lab.household("avahi", str(host), "start")
            if not self.is_up(host):
                self.household.daemons.pop(host, None)
                self.household.up(host)
        for host in self.hosts:
            self.hearth(host, "resume")
        self.everybody_in()

    def stop_job(self, job):
        """So that a job that came to nothing is not in the way of the next."""
        for host in self.hosts:
            self.thaw(host)
        if not self.is_up(OWNER):
            self.household.daemons.pop(OWNER, None)
            self.household.up(OWNER)
        try:
            self.hearth(OWNER, "stop", job.id)
        except LabFailure as failure:
            # A daemon that does not answer any more is in the way of everything that follows.
            say(f"{failure}; it is killed")
            self.kill(OWNER)
            self.household.up(OWNER)
            self.hearth(OWNER, "stop", job.id)

    def hearth(self, host, *words):
        """A command whose refusal does not matter; what it said."""
        program = self.lab.hearth_on(host, self.household.home, *words)
        try:
            program.process.wait(60)
        except Exception:
            program.process.kill()
            raise LabFailure(f"hearth {' '.join(words)} on host {host} does not end") from None
        return [line for _, line in program.lines] + program.errors

    def start(self, followers=(2, 3), is_long=False):
        self.jobs += 1
        job = Job(self, self.jobs, is_long)
        for host in followers:
            if host in self.hosts and self.is_up(host):
                job.follow(host)
        return job

    def close(self):
        for host in sorted(self.frozen):
            self.thaw(host)
        self.lab.close()
        shutil.rmtree(self.directory, ignore_errors=True)


# Faults. Each takes the scene, the job and chance, waits for its moment, and returns when it did its work.


class Case:
    """One kind of fault in one job; a long one is measured against a quiet run of its own."""

    def __init__(self, name, act, prepare=None, target=None, needs_hosts=False, is_long=False):
        self.name, self.act, self.prepare, self.target, self.needs_hosts = name, act, prepare, target, needs_hosts
        self.is_long = is_long


def leader_of(plan):
    """The host of the device that made a plan."""
    return int(plan["leader"].rpartition("-")[2])


def at_work(plan, job):
    """The hosts that compute under a plan now."""
    is_cached = any(event.get("event") == "progress" and event.get("phase") == "cached" for _, event in job.events())
    devices = plan["cached_devices"] if is_cached else [device for stage in plan["stages"] for device in stage["devices"]]
    return sorted(int(device["name"].rpartition("-")[2]) for device in devices)


def bystander(scene, job):
    """A host with work that is neither the owner's nor the leader's, the last one of them; its absence is felt."""
    plan = job.newest_plan()
    free = [host for host in scene.hosts if host not in (OWNER, leader_of(plan))]
    working = [host for host in at_work(plan, job) if host in free]
    return (working or free)[-1]


def told(job, what):
    job.faults.append((time.time(), what))


def killing(choose, share, back_after=None):
    """kill -9 when a share of the job is done."""
    def act(scene, job, dice):
        job.wait_for_share(share(dice))
        victim = choose(scene, job)
        told(job, f"kill -9 of host {victim}")
        scene.kill(victim)
        if back_after is not None:
            time.sleep(back_after)
            scene.household.up(victim)
    return act


def leading_device(_, job):
    return leader_of(job.newest_plan())


def owning_device(*_):
    return OWNER


def killing_while(state, choose):
    """kill -9 as soon as the job is in a state; the first plan is not there yet, so the device with the least id or
    the owner leads: both are tried."""
    def act(scene, job, dice):
        job.wait_for_state(state)
        victim = choose(scene, None)
        told(job, f"kill -9 of host {victim} while {state}")
        scene.kill(victim)
        if victim == OWNER:
            time.sleep(2)
            scene.household.up(victim)
    return act


def killing_in_turn(scene, job, dice):
    """The owner is killed, and after it the device that leads in its place; both come back."""
    job.wait_for_share(0.4)
    told(job, f"kill -9 of host {OWNER}")
    scene.kill(OWNER)
    before = time.time()
    plan = job.wait(lambda event: event.get("event") == "planned" and event["leader"] != f"device-{OWNER}", 60,
                    "plan of another leader", since=before)[1]
    job.wait(lambda event: position(event) is not None, 60, "step under another leader", since=time.time())
    leader = leader_of(plan)
    told(job, f"kill -9 of host {leader}, which leads after it")
    scene.kill(leader)
    for host in (OWNER, leader):
        time.sleep(1)
        scene.household.up(host)


def killing_in_decree(scene, job, dice):
    """One device is killed, and the leader a moment later, while the others agree on the next plan."""
    job.wait_for_share(0.5)
    leader, first = leading_device(scene, job), bystander(scene, job)
    told(job, f"kill -9 of host {first}, then of the leader, host {leader}")
    scene.kill(first)
    time.sleep(dice.uniform(0, 0.6))
    scene.kill(leader)
    time.sleep(2)
    for host in (leader, first):
        scene.household.up(host)


def freezing(choose, seconds):
    def act(scene, job, dice):
        job.wait_for_share(0.4)
        victim = choose(scene, job)
        told(job, f"SIGSTOP of host {victim} for {seconds} s")
        scene.freeze(victim)
        until = time.monotonic() + seconds
        while time.monotonic() < until and not any(
                event.get("event") == "state" and event.get("state") in ("finished", "failed")
                for _, event in job.events()):
            time.sleep(0.05)
        scene.thaw(victim)
    return act


def cutting(seconds, *one_way):
    def act(scene, job, dice):
        job.wait_for_share(0.4)
        victim = bystander(scene, job)
        told(job, f"link of host {victim} {'one way ' if one_way else ''}down for {seconds} s")
        scene.lab.household("cut", str(victim), scene.others(victim), *one_way)
        time.sleep(seconds)
        scene.lab.household("heal")
    return act


def parting(seconds):
    """The network falls into two halves; the owner's has the majority."""
    def act(scene, job, dice):
        job.wait_for_share(0.4)
        middle = (len(scene.hosts) + 1) // 2
        halves = [",".join(map(str, half)) for half in (scene.hosts[:middle], scene.hosts[middle:])]
        told(job, f"hosts {halves[0]} and {halves[1]} parted for {seconds} s")
        scene.lab.household("cut", *halves)
        time.sleep(seconds)
        scene.lab.household("heal")
    return act


def slowing(scene, job, dice):
    job.wait_for_share(0.3)
    victim = bystander(scene, job)
    told(job, f"host {victim} has a fourth of its processor share")
    scene.limit(victim, scene.options.share / 4)


def without_discovery(scene, job, dice):
    job.wait_for_share(0.4)
    told(job, "Avahi killed and the bus stopped on every host")
    for host in scene.hosts:
        scene.lab.household("avahi", str(host), "kill")
        scene.lab.household("bus", str(host), "stop")


def power_cut(scene, job, dice):
    job.wait_for_share(0.5)
    told(job, "kill -9 of every daemon, and all started again")
    for host in scene.hosts:
        os.kill(scene.pid(host), signal.SIGKILL)
    for host in scene.hosts:
        scene.kill(host)
    for host in scene.hosts:
        scene.household.up(host)
    for host in (2, 3):
        job.follow(host)


def stay_away(scene):
    """The last host comes later."""
    scene.household.down(max(scene.hosts))


def start_with_two(scene):
    """Two hosts begin, so that a third is worth the most; the others stay away."""
    for host in scene.hosts[2:]:
        scene.household.down(host)


def joining(share, number):
    def act(scene, job, dice):
        late = scene.hosts[number]
        job.wait_for_share(share)
        told(job, f"hearth up on host {late}")
        job.session, _ = scene.household.up(late).wait_for(event("connected"), 30, "session")
        job.late = late
    return act


def pausing(scene, job, dice):
    job.wait_for_share(0.5)
    victim = bystander(scene, job)
    told(job, f"hearth pause on host {victim}")
    scene.hearth(victim, "pause", "--reason", "benchmark")


def ending(scene, job, dice):
    job.wait_for_share(0.5)
    victim = bystander(scene, job)
    told(job, f"SIGTERM of the daemon of host {victim}")
    scene.household.down(victim)


def random_kills(scene, job, dice):
    """Any device but the owner's, at any moment, again and again."""
    job.wait_for_plan()
    for _ in range(4):
        job.wait_for_state("training")
        time.sleep(dice.uniform(1, 3))
        if any(event.get("event") == "state" and event.get("state") == "finished" for _, event in job.events()):
            return
        victim = dice.choice([host for host in scene.hosts if host != OWNER])
        told(job, f"kill -9 of host {victim}")
        scene.kill(victim)
        time.sleep(dice.uniform(0, 1))
        scene.household.up(victim)
        if victim in (2, 3):
            job.follow(victim)


def at(share):
    return lambda dice: share


def first_epoch_of(options):
    return at(0.5 / options.epochs)


def cases_of(options):
    first, middle = first_epoch_of(options), at(0.5)
    crash, join, leave = churn_report.CRASH, churn_report.JOIN, churn_report.LEAVE
    cases = [
        Case("kill -9 of a device, cached phase", killing(bystander, middle), target=crash),
        Case("kill -9 of a device, first epoch", killing(bystander, first)),
        Case("kill -9 of the leader, started again after 3 s, cached phase", killing(leading_device, middle, back_after=3),
             target=crash),
        Case("kill -9 of the leader, started again after 3 s, first epoch", killing(leading_device, first, back_after=3)),
        Case("kill -9 of the owner's daemon, and of the leader after it", killing_in_turn, target=crash),
        Case("kill -9 of a device while the job is planned", killing_while("planning", lambda scene, _: max(scene.hosts))),
        Case("kill -9 of the leader while the job is planned", killing_while("planning", owning_device)),
        Case("kill -9 of a device, and of the leader while the others agree", killing_in_decree),
        Case("kill -9 of four devices, each started again", random_kills),
        Case("SIGSTOP of a device for 1 s", freezing(bystander, 1)),
        Case("SIGSTOP of a device for 5 s", freezing(bystander, 5)),
        Case("SIGSTOP of a device for 60 s", freezing(bystander, 60)),
        Case("SIGSTOP of the leader for 5 s", freezing(leading_device, 5)),
        Case("link of a device down for 5 s", cutting(5), needs_hosts=True),
        Case("link of a device down one way for 5 s", cutting(5, "--one-way"), needs_hosts=True),
        Case("the network falls into two halves for 8 s", parting(8), needs_hosts=True),
        Case("a device becomes four times slower", slowing, needs_hosts=True),
        Case("Avahi and the bus killed everywhere", without_discovery, needs_hosts=True),
        Case("power loss of all", power_cut),
        Case("a device comes in the first epoch", joining(0.5 / options.epochs, -1), prepare=stay_away),
        Case("a third device comes at 30 % of a long job", joining(0.3, 2), prepare=start_with_two, target=join, is_long=True),
        Case("a third device comes at 80 % of a long job", joining(0.8, 2), prepare=start_with_two, target=join, is_long=True),
        Case("hearth pause", pausing, target=leave),
        Case("the daemon of a device ends (SIGTERM)", ending, target=leave),
    ]
    if options.quick:
        wanted = ("kill -9 of a device, cached phase", "power loss of all", "a third device comes at 30 % of a long job", "hearth pause")
        cases = [case for case in cases if case.name in wanted]
    if options.only:
        cases = [case for case in cases if any(word in case.name for word in options.only)]
    return [case for case in cases if not (case.needs_hosts and options.loopback)]


class Run:
    """A whole benchmark run."""

    def __init__(self, options, scene, report):
        self.options, self.scene, self.report = options, scene, report
        self.dice = random.Random(options.seed)

    def one(self, name, case=None, prepare=None, is_long=False):
        """One job; what came of it."""
        scene = self.scene
        began = time.time()
        if case:
            prepare, is_long = case.prepare, case.is_long
        outcome = {"name": name, "target": case.target if case else None, "is_long": is_long}
        job = None
        try:
            scene.mend()
            if prepare:
                prepare(scene)
            job = scene.start(is_long=is_long)
            if case:
                case.act(scene, job, self.dice)
            over, outcome["digest"] = job.wait_for_end()
            outcome.update(churn_report.figures(job.events(), over, job.faults, job.session, job.late))
        except (LabFailure, OSError, KeyError, IndexError) as failure:
            outcome["failure"] = f"{type(failure).__name__}: {failure}"[:600]
        if job:
            self.keep(name, job)
            job.close()
            if outcome.get("failure"):
                scene.stop_job(job)
        outcome["wall_seconds"] = time.time() - began
        return outcome

    def keep(self, name, job):
        if self.options.events:
            with open(self.options.events, "a") as file:
                for moment, what in job.faults:
                    file.write(json.dumps({"case": name, "at": moment, "fault": what}) + "\n")
                for moment, fields in job.events():
                    file.write(json.dumps({"case": name, "at": moment, **fields}) + "\n")
                for host, daemon in self.scene.household.daemons.items():
                    for moment, line in daemon.lines:
                        if moment > job.submitted[0] - 1:
                            file.write(json.dumps({"case": name, "at": moment, "host": host, "log": line}) + "\n")

    def faults(self):
        for number in range(self.options.quiet_runs):
            self.add(self.one(f"quiet {number + 1}"))
        cases = cases_of(self.options)
        has_quiet = False
        for number, case in enumerate(cases):
            if case.is_long and not has_quiet:
                has_quiet = True
                self.add(self.one("quiet long job of two devices", prepare=start_with_two, is_long=True))
            say(f"{number + 1} of {len(cases)}: {case.name}")
            self.add(self.one(case.name, case))

    def add(self, outcome):
        self.report["jobs"].append(outcome)
        say(churn_report.line(outcome, self.report))
        self.write()

    def write(self):
        if self.options.json:
            with open(self.options.json, "w") as file:
                json.dump(self.report, file, indent=1)

    # The soak

    def soak(self):
        """Jobs without a pause between them, a fault every ten seconds, and what the daemons hold of the machine."""
        scene, dice = self.scene, self.dice
        soak = self.report["soak"] = {"minutes": self.options.soak, "jobs": [], "faults": {}, "samples": []}
        self.add(self.one("quiet for the soak"))
        scene.mend()
        until = time.monotonic() + 60 * self.options.soak
        # The last two hosts are never killed, so that their memory can be followed from end to end.
        steady = [host for host in scene.hosts if host in (OWNER, max(scene.hosts))]
        while time.monotonic() < until:
            outcome = {}
            job = None
            try:
                job = scene.start(followers=(max(scene.hosts),))
                while not self.is_done(job):
                    next_fault = time.monotonic() + 10
                    while time.monotonic() < next_fault and not self.is_done(job):
                        time.sleep(0.1)
                    if not self.is_done(job):
                        kind = self.random_fault(job, steady)
                        soak["faults"][kind] = soak["faults"].get(kind, 0) + 1
                _, outcome["digest"] = job.wait_for_end()
            except (LabFailure, OSError, KeyError) as failure:
                outcome["failure"] = f"{type(failure).__name__}: {failure}"[:400]
            if job:
                self.keep("soak", job)
                job.close()
                if outcome.get("failure"):
                    scene.stop_job(job)
            soak["jobs"].append(outcome)
            try:
                scene.mend()
            except LabFailure as failure:
                outcome["failure"] = str(failure)[:400]
                break
            time.sleep(1)
            soak["samples"].append({"at": time.time(), "daemons": {
                str(host): {"pid": scene.pid(host), **machine.process_usage(scene.pid(host))} for host in scene.hosts}})
            say(churn_report.soak_line(soak))
            self.write()
        soak["steady"] = steady

    def is_done(self, job):
        return all(following.is_over() for following in job.followings) or any(
            event.get("event") == "state" and event.get("state") in ("finished", "failed", "stopped")
            for _, event in job.events()[-400:])

    def random_fault(self, job, steady):
        scene, dice = self.scene, self.dice
        kinds = ["kill", "freeze", "pause"] + ([] if scene.lab.loopback else ["cut", "avahi"])
        kind = dice.choice(kinds)
        loose = [host for host in scene.hosts if host not in steady]
        host = dice.choice(loose if kind == "kill" else [host for host in scene.hosts if host != OWNER])
        told(job, f"{kind} of host {host}")
        length = dice.uniform(0.5, 4)
        if kind == "kill":
            scene.kill(host)
            time.sleep(length)
            scene.household.up(host)
        elif kind == "freeze":
            scene.freeze(host)
            time.sleep(length)
            scene.thaw(host)
        elif kind == "pause":
            scene.hearth(host, "pause", "--reason", "soak")
            time.sleep(length)
            scene.hearth(host, "resume")
        elif kind == "cut":
            scene.lab.household("cut", str(host), scene.others(host))
            time.sleep(length)
            scene.lab.household("heal")
        else:
            scene.lab.household("avahi", str(host), "kill")
            time.sleep(length)
            scene.lab.household("avahi", str(host), "start")
        return kind


def parse():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(prog="scripts/benchmark churn", description=__doc__)
    parser.add_argument("--hearth", required=True)
    parser.add_argument("--benchmark", help="unused: the programs are built together")
    parser.add_argument("--cache", required=True, help="directory for what the run writes")
    parser.add_argument("--model", default=os.path.join(here, "..", "..", ".demo", "minilm"),
                        help="a small model's directory (default: that of scripts/fetch-demo-data)")
    parser.add_argument("--corpus", default=os.environ.get("HEARTH_DATA", os.path.join(
        here, "..", "..", "..", "shared", "data")), help="directory with mrpc/")
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.4, help="of a processor, for each device")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--long-epochs", type=int, default=120, help="of the jobs into which a third device comes")
    parser.add_argument("--long-batch", type=int, default=128, help="of the same: a step of many units gains by a third device")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--planner", default="pac")
    parser.add_argument("--seed", type=int, default=1, help="of the faults' moments and victims")
    parser.add_argument("--quiet-runs", type=int, default=2)
    parser.add_argument("--only", type=lambda text: text.split(","), help="cases whose names have one of these words")
    parser.add_argument("--quick", action="store_true", help="one quiet job and four faults")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="only jobs with a fault every ten seconds, so long")
    parser.add_argument("--loopback", action="store_true", help="daemons on 127.0.0.1 without limits")
    parser.add_argument("--events", metavar="FILE", help="appends every event of every job, and the daemons' logs")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--document", metavar="FILE", help="replaces the table between the churn marks of a Markdown file")
    parser.add_argument("--earlier", metavar="FILE", help="takes what is not measured now from what --json wrote before")
    options = parser.parse_args()
    options.model = os.path.abspath(options.model)
    options.hearth = os.path.abspath(options.hearth)
    if options.quick:
        options.quiet_runs = 1
    if options.devices < 3:
        parser.error("3 devices at least: one may be killed while two others follow")
    return options


def main():
    options = parse()
    # So that what is up comes down when somebody ends the benchmark.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not os.path.exists(os.path.join(options.model, "model.safetensors")):
        sys.exit(f"scripts/benchmark: {options.model} has no model; run 'scripts/fetch-demo-data' once, or name one by --model")
    options.loopback = options.loopback or not Lab.is_possible()[0]
    report = {"machine": machine.description(), "load_before": quiet_share(),
              "options": {key: value for key, value in vars(options).items() if key != "corpus"}, "jobs": []}
    if options.earlier and os.path.exists(options.earlier):
        with open(options.earlier) as file:
            report["earlier"] = json.load(file)
    began = time.perf_counter()
    scene = None
    try:
        directory = tempfile.mkdtemp(prefix="churn-", dir=options.cache)
        options.data = rows_of(options, directory, options.rows)
        scene = Scene(options, directory)
        run = Run(options, scene, report)
        run.soak() if options.soak else run.faults()
    finally:
        if scene:
            scene.close()
    report["minutes"] = (time.perf_counter() - began) / 60
    report = churn_report.merged(report, report.pop("earlier", None))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file, indent=1)
    text = churn_report.markdown(report)
    print(text)
    if options.document:
        churn_report.replace(options.document, text)
    if not churn_report.is_sound(report):
        raise SystemExit("scripts/benchmark: not every job ended with the quiet run's adapter")


if __name__ == "__main__":
    main()
