"""The table of devices that come and go, from what was told while they did."""
import statistics

import report

BEGIN, END = "<!-- churn begin -->", "<!-- churn end -->"
MIB = 1 << 20
# Targets: seconds without a committed step after a crash; seconds from the session to the first contributed step;
# steps that are computed again after a leave in order.
CRASH, JOIN, LEAVE = "crash", "join", "leave"
CRASH_SECONDS, JOIN_SECONDS, LEAVE_STEPS = 5.0, 10.0, 1
# What a daemon may hold more at the end of a soak than in its beginning.
GROWTH_SHARE, GROWTH_BYTES, GROWTH_COUNT = 0.10, 8 * MIB, 4
# What is compared, with what it may grow by; of bytes, the larger of a share and a constant.
GROWTH_OF = {"resident_bytes": None, "own_bytes": None, "file_bytes": None, "descriptors": GROWTH_COUNT, "threads": GROWTH_COUNT}
GROWTH_NAMES = {"resident_bytes": "resident set", "own_bytes": "of it no file's", "file_bytes": "of it mapped files",
                "descriptors": "file descriptors", "threads": "threads"}


def replace(path, text):
    report.replace(path, text, BEGIN, END)


def steps_of(events):
    """The steps of one epoch; nothing when no event tells."""
    return max((event["steps"] for _, event in events
                if event.get("event") == "progress" and event.get("phase") in ("live", "cached") and event.get("steps")), default=None)


def committed(event, per_epoch):
    """How many steps are committed, as far as an event tells; of short epochs often only the end is told."""
    if event.get("event") == "epoch" and event.get("mode") in ("live", "cached") and per_epoch:
        return event["epoch"] * per_epoch
    if event.get("event") != "progress" or event.get("phase") not in ("live", "cached") or not event.get("steps"):
        return None
    return (event["epoch"] - 1) * event["steps"] + event["step"]


def figures(events, over, faults, session, late_host):
    """What one job's events say: its time, the longest pause after the fault, steps that were lost, plans.

    `session` is when a device that came late, `late_host`, had its first session; nothing when none came.
    """
    began = next((moment for moment, event in events
                  if event.get("event") == "state" and event.get("state") == "training"), None)
    per_epoch = steps_of(events)
    steps = [(moment, step) for moment, event in events if (step := committed(event, per_epoch)) is not None]
    plans = {event["plan_epoch"]: moment for moment, event in reversed(events) if event.get("event") == "planned"}
    found = {"began": began, "seconds": over - began if began else None, "plans": len(plans),
             "faults": [what for _, what in faults],
             "notes": notes(events)}
    if steps:
        found["steps"] = max(step for _, step in steps)
    if not faults:
        return found
    fault = faults[0][0]
    # Several follow the job, and each may be a little late: only what nobody knew before counts as progress.
    before = max([step for moment, step in steps if moment <= fault], default=0)
    pause, last, most = 0.0, fault, before
    first = None
    for moment, step in steps:
        if moment <= fault or step <= most:
            continue
        first = first if first is not None else moment
        pause, last, most = max(pause, moment - last), moment, step
    found["pause"] = pause
    found["next_step"] = first - fault if first is not None else None
    found["redone"] = redone(events, fault)
    if began is None or fault < began:
        found["pause"] = found["next_step"] = None
    if session:
        found.update(contribution(events, session, late_host, per_epoch))
    return found


def redone(events, fault):
    """Steps that somebody was told of and then again after a fault; the end of an epoch may be told after a step of the next."""
    most, back = {}, 0
    for moment, event in events:
        step = committed(event, None)
        if step is None:
            continue
        known = most.get(event["follower"], 0)
        if moment > fault:
            back = max(back, known - step)
        most[event["follower"]] = max(known, step)
    return back


def notes(events):
    """What people were told of devices that came and went, each once."""
    told = []
    for _, event in events:
        if event.get("event") != "note":
            continue
        text = " ".join(str(event[key]) for key in ("kind", "device", "reason", "took_seconds") if event.get(key) is not None)
        if text not in told:
            told.append(text)
    return told[:40]


def contribution(events, session, late_host, per_epoch):
    """From the session of a late device to the first step that was committed with it."""
    name = f"device-{late_host}"
    at_work = None
    for moment, event in events:
        if moment <= session:
            continue
        if event.get("event") == "devices" and at_work is None:
            if any(device["name"] == name and device["state"] == "computing" for device in event["devices"]):
                at_work = moment
        elif at_work is not None and committed(event, per_epoch) is not None:
            return {"contributed": moment - session}
    return {}


# Reading


def quiet(run, is_long=False):
    """The jobs without a fault: the usual ones, or those that others were as long as."""
    return [job for job in run["jobs"]
            if job["name"].startswith("quiet") and job.get("digest") and job.get("is_long", False) == is_long]


def quiet_seconds(run, is_long=False):
    found = [job["seconds"] for job in quiet(run, is_long) if job.get("seconds")]
    return statistics.median(found) if found else None


def is_same(job, run):
    known = quiet(run, job.get("is_long", False))
    return bool(job.get("digest")) and bool(known) and job["digest"] == known[0]["digest"]


def is_sound(run):
    soak = run.get("soak") or {}
    return all(is_same(job, run) for job in run["jobs"] + soak.get("jobs", []))


def measured(job):
    """The figure that a target is about, with its limit and unit."""
    if job.get("target") == CRASH:
        return job.get("pause"), CRASH_SECONDS, "s without a step"
    if job.get("target") == JOIN:
        return job.get("contributed"), JOIN_SECONDS, "s to its first step"
    if job.get("target") == LEAVE:
        return job.get("redone"), LEAVE_STEPS, "step again"
    return None, None, None


def seconds(value):
    return "–" if value is None else f"{value:.1f} s"


def lost(job, run):
    whole = quiet_seconds(run, job.get("is_long", False))
    return job["seconds"] - whole if whole and job.get("seconds") else None


def verdict(job):
    value, limit, unit = measured(job)
    if limit is None:
        return "–"
    goal = f"≤ {limit:g} {unit}"
    if value is None:
        why = next((note for note in job.get("notes") or [] if note.startswith("not_used")), None)
        # "not_used device-4 REASON"
        return f"{goal}: not used ({why.split(' ', 2)[-1]})" if why else f"{goal}: **not seen**"
    return f"{goal}: {'reached' if value <= limit else '**missed**'} ({value:.1f})"


def line(job, run):
    """One job in a line, for whoever waits."""
    if job.get("failure"):
        return f"{job['name']}: FAILED: {job['failure']}"
    same = "the quiet adapter" if is_same(job, run) else f"ANOTHER ADAPTER {job['digest'][:12]}"
    return (f"{job['name']}: {seconds(job.get('seconds'))}, lost {seconds(lost(job, run))}, pause {seconds(job.get('pause'))}, "
            f"next step {seconds(job.get('next_step'))}, again {job.get('redone', '–')}, contributed "
            f"{seconds(job.get('contributed'))}, {job.get('plans')} plans, {same}, {job['wall_seconds']:.0f} s in all")


def table(run):
    rows = []
    for job in run["jobs"]:
        if job["name"].startswith("quiet"):
            continue
        if job.get("failure"):
            rows.append([job["name"], f"**failed**: {job['failure'][:120]}"] + ["–"] * 6)
            continue
        rows.append([
            job["name"], "equal" if is_same(job, run) else "**different**", seconds(job.get("seconds")),
            seconds(lost(job, run)), seconds(job.get("pause")), str(job.get("redone", "–")), str(job.get("plans", "–")),
            verdict(job)])
    return report.table(
        ["what happened", "adapter", "whole job", "longer than quiet", "longest time without a committed step",
         "steps computed again", "plans", "target"], rows) if rows else None


def soak_line(soak):
    done = len(soak["jobs"])
    failed = sum(1 for job in soak["jobs"] if job.get("failure"))
    sample = soak["samples"][-1]["daemons"] if soak["samples"] else {}
    held = ", ".join(
        f"{host}: {usage['resident_bytes'] // MIB} MiB ({usage['own_bytes'] // MIB} own, {usage['file_bytes'] // MIB} of files), "
        f"{usage['descriptors']} fds, {usage['threads']} threads" for host, usage in sample.items())
    return f"soak: {done} jobs ({failed} failed), {sum(soak['faults'].values())} faults; {held}"


def growth(soak):
    """For each daemon that lived from the first job to the last: what it held in the first and the last third."""
    rows = []
    samples = soak["samples"]
    for host in (samples[0]["daemons"] if samples else {}):
        lives = {}
        for sample in samples:
            usage = sample["daemons"].get(host)
            if usage:
                lives.setdefault(usage["pid"], []).append(usage)
        longest = max(lives.values(), key=len)
        # The first job fills pools and caches that stay.
        longest = longest[1:]
        if len(longest) < 3:
            continue
        third = max(1, len(longest) // 3)
        for key, allowed in GROWTH_OF.items():
            # An earlier run's file may lack a figure.
            if key not in longest[0]:
                continue
            first = statistics.median(usage[key] for usage in longest[:third])
            last = statistics.median(usage[key] for usage in longest[-third:])
            limit = max(GROWTH_SHARE * first, GROWTH_BYTES) if allowed is None else allowed
            rows.append({"host": host, "what": key, "first": first, "last": last, "jobs": len(longest),
                         "grew": last - first > limit})
    return rows


def soak_text(run):
    soak = run.get("soak")
    if not soak or not soak["jobs"]:
        return None
    failed = [job for job in soak["jobs"] if job.get("failure")]
    same = sum(1 for job in soak["jobs"] if is_same(job, run))
    faults = ", ".join(f"{count} × {kind}" for kind, count in sorted(soak["faults"].items()))
    def figure(row, when):
        return f"{row[when] / MIB:.0f} MiB" if row["what"].endswith("_bytes") else f"{row[when]:g}"

    rows = [[f"device-{row['host']}", GROWTH_NAMES[row["what"]], figure(row, "first"), figure(row, "last"),
             str(row["jobs"]), "**grew**" if row["grew"] else "did not grow"] for row in growth(soak)]
    text = (f"Soak of {soak['minutes']:g} minutes, a fault every 10 s ({faults}): {len(soak['jobs'])} jobs, {same} with the quiet "
            f"adapter, {len(failed)} failed. Between jobs, first third against last third of a daemon's longest life:")
    return text + "\n\n" + report.table(["", "", "first", "last", "jobs", ""], rows) if rows else text


def facts(run):
    machine, options = run["machine"], run["options"]
    loud = run["load_before"] > 0.25 * machine["processors"]
    where = ("daemons on 127.0.0.1 without limits" if options["loopback"]
             else f"hosts of `scripts/household` with links of 1 Gbit/s and 0.2 ms, each limited to {options['share']:g} of a processor")
    known = quiet(run)
    return "\n".join([
        f"- {machine['processor']}, {machine['processors']} processors, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['system']}; {options['devices']} {where}",
        f"- {options['model'].rpartition('/')[2]}, {options['rows']} pairs of MRPC, {options['epochs']} epochs of which the first is "
        f"live, batches of {options['batch']} in units of {options['micro_batch']}, at most {options['length']} tokens, one thread a device",
        (f"- quiet: {', '.join(seconds(job.get('seconds')) for job in known)} from the first phase to the end, {known[0].get('steps')} steps; "
         f"one adapter: {'yes' if len({job['digest'] for job in known}) == 1 else '**no**'} (`{known[0]['digest'][:16]}…`)"
         if known else "- no quiet run"),
    ] + [f"- quiet long job, {options['long_epochs']} epochs in batches of {options['long_batch']} on two devices: "
         f"{seconds(job.get('seconds'))}" for job in quiet(run, is_long=True)] + [
        "- *longer than quiet* has the work that a device no longer does in it; *longest time without a committed step* has only the "
        "change; steps are told every 0.1 to 0.5 s",
        f"- load before the run: {run['load_before']:.2f}" + (" (**not a quiet machine: do not publish**)" if loud else "")])


def markdown(run):
    parts = [facts(run)] + [text for text in (table(run), soak_text(run)) if text]
    return "\n\n".join(parts) + "\n"


def merged(run, earlier):
    """A run with what only an earlier one has."""
    if not earlier:
        return run
    if run.get("soak") is None and earlier.get("soak"):
        run["soak"] = earlier["soak"]
    known = {job["name"]: job for job in earlier["jobs"]}
    known.update({job["name"]: job for job in run["jobs"]})
    run["jobs"] = list(known.values())
    return run
