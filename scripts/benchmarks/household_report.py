"""The tables of the household benchmark from the figures of its jobs."""
import collections
import statistics

import report

BEGIN, END = "<!-- household begin -->", "<!-- household end -->"
MIB = 1 << 20
MRPC_SAMPLES = 3668
MRPC_EPOCHS = 3
DEVIATION_TARGET = 0.10
TRANSITION_TARGET = 0.04
# PAC, Table 2: hours of T5-Base on MRPC, 3 epochs, 8 Jetson Nano (Standalone: one); None is out of memory.
PAPER_HOURS = {
    ("standalone", "full"): None, ("ecofl", "full"): 0.45, ("eddl", "full"): None,
    ("standalone", "houlsby"): 1.21, ("ecofl", "houlsby"): 0.39, ("eddl", "houlsby"): 0.34,
    ("standalone", "lora"): 1.21, ("ecofl", "lora"): 0.41, ("eddl", "lora"): 0.31,
    ("pac", "parallel"): 0.14,
}
SYSTEMS = {"standalone": "one device", "ecofl": "Eco-FL", "eddl": "EDDL", "pac": "PAC"}
TECHNIQUES = {"full": "Full", "houlsby": "Adapters", "lora": "LoRA", "parallel": "Parallel Adapters"}


def replace(path, text):
    report.replace(path, text, BEGIN, END)


def is_done(job):
    return bool(job.get("digest"))


def is_full(job):
    """Whether gradients were rounded as finely as they can be, as the other systems' are."""
    return job.get("precision", "full") == "full"


def first_epoch(job):
    """Seconds of the first epoch, with what fills the cache before it."""
    span = phase_seconds(job, "fill") or 0
    return job["epochs"][0]["seconds"] + span


def cached_epochs(job):
    return [epoch["seconds"] for epoch in job["epochs"][1:] if epoch["mode"] == "cached"]


def phase_seconds(job, name):
    """Seconds between a phase's first event and the next phase's; None when the job had no such phase."""
    phases = job.get("phases", [])
    for index, (phase, moment) in enumerate(phases):
        if phase == name and index + 1 < len(phases):
            return phases[index + 1][1] - moment
    return None


def transition_seconds(job):
    """Seconds between the first epoch and the cached ones on the slowest device; None when no device told."""
    return max((seconds for seconds, _ in job.get("transitions", {}).values()), default=None)


def freed(job):
    """What the devices that computed in the first epoch freed then: the least and the most."""
    sizes = sorted(size / MIB for _, size in job.get("transitions", {}).values())
    return f", {sizes[0]:.0f} to {sizes[-1]:.0f} MiB freed" if sizes else ""


def samples(job):
    epoch = job["epochs"][0]
    return epoch["seconds"] * epoch["samples_per_second"]


def first_rate(job):
    """Samples a second of the first epoch; of full fine-tuning, which computes the first of all steps twice, behind that."""
    steady = job.get("steady_samples_per_second")
    return steady if steady and job["technique"] == "full" else samples(job) / first_epoch(job)


def deviation(job):
    """Measured by predicted, less one: of the first pass over the samples, which may be a fill, and of a cached epoch."""
    predicted = (job.get("plan") or {}).get("predicted_seconds")
    if not predicted:
        return None, None
    cached = cached_epochs(job)
    # A fill is predicted by itself; the epoch after it is a cached one.
    first = phase_seconds(job, "fill") or job["epochs"][0]["seconds"]
    return (first / predicted["first_epoch"] - 1 if predicted.get("first_epoch") else None,
            statistics.median(cached) / predicted["cached_epoch"] - 1
            if cached and predicted.get("cached_epoch") else None)


def hours(job):
    """Hours of three epochs of MRPC at the rates of this job."""
    scale = MRPC_SAMPLES / samples(job) / 3600
    cached = cached_epochs(job)
    if cached:
        transition = transition_seconds(job) or 0
        return scale * (first_epoch(job) + transition + (MRPC_EPOCHS - 1) * statistics.median(cached))
    return MRPC_SAMPLES * MRPC_EPOCHS / first_rate(job) / 3600


def grouping(job):
    stages = (job.get("plan") or {}).get("stages") or []
    return "[" + "-".join(str(len(stage.get("devices", []))) for stage in stages) + "]" if stages else "–"


def percent(value):
    return "–" if value is None else f"{100 * value:+.0f} %"


def seconds(value):
    return "–" if value is None else f"{value:.1f} s"


def line(job):
    """One job in one line, for whoever waits."""
    if not is_done(job):
        return f"{job['name']}: {why(job)}"
    cached = cached_epochs(job)
    return (f"{job['name']}: first epoch {first_epoch(job):.1f} s ({first_rate(job):.2f} samples/s), "
            f"cached {seconds(statistics.median(cached) if cached else None)}, plan {grouping(job)}, "
            f"digest {job['digest'][:8]}, {job['seconds']:.0f} s in all")


def why(job):
    """In a few words, why there is no adapter."""
    if job.get("killed"):
        return f"OOM: the kernel killed {len(job['killed'])} of {job['devices']} devices"
    text = job.get("failure") or "no adapter"
    lowered = text.lower()
    if "the kernel killed it" in lowered:
        return "OOM: the kernel killed it"
    if "no end" not in lowered and "memory" in lowered and ("fit" in lowered or "budget" in lowered):
        return "OOM: refused, no plan fits"
    return text[:120]


def sizes_table(jobs):
    """The first epoch and the cached ones on households of several sizes (PAC, Fig. 9)."""
    chosen = [job for job in jobs if job["technique"] == "parallel" and job["system"] in ("standalone", "pac")
              and not job["memory_bytes"]]
    alone = {job["share"]: job for job in chosen if job["devices"] == 1 and is_done(job)}
    ceilings = {(job["devices"], job["share"]): job for job in jobs if job["system"] == "ceiling" and is_done(job)}
    rows = []
    for job in chosen:
        if not is_done(job):
            rows.append([job["name"], why(job)] + ["–"] * 10)
            continue
        one = alone.get(job["share"])
        cached = cached_epochs(job)
        efficiency = (f"{100 * first_rate(job) / (job['devices'] * first_rate(one)):.0f} %" if one else "–")
        ceiling = ceilings.get((job["devices"], job["share"]))
        of_ceiling = f"{100 * first_rate(job) / (job['devices'] * first_rate(ceiling)):.0f} %" if ceiling else "–"
        used, least = job.get("processor_seconds"), (one or {}).get("processor_seconds")
        processor = f"{used[0] / least[0]:.2f}x" if used and least else "–"
        gain = (f"{statistics.median(cached_epochs(one)) / statistics.median(cached):.2f}x"
                if one and cached and cached_epochs(one) else "–")
        transition = transition_seconds(job)
        whole = first_epoch(job) + (transition or 0) + sum(cached)
        first_off, cached_off = deviation(job)
        peaks = job.get("memory_peaks") or {}
        peak = max(peaks.values(), default=0) or (job.get("result") or {}).get("peak_resident_bytes") or 0
        sent = max((sum(link["sent_bytes"] for link in device.get("links", []))
                    for device in job.get("devices_report", [])), default=0)
        rows.append([
            job["name"], grouping(job), f"{first_rate(job):.2f}", efficiency, of_ceiling, processor, seconds(statistics.median(cached) if cached else None),
            gain, f"{percent(first_off)} / {percent(cached_off)}",
            "–" if transition is None else f"{transition:.2f} s ({100 * transition / whole:.1f} %{freed(job)})",
            f"{peak / MIB:.0f} MiB", f"{sent / MIB:.0f} MiB"])
    header = ["", "stages", "first epoch, samples/s", "of N times one device", "of N apart at once",
              "processor time, of one device's", "a cached epoch", "against one device",
              "measured − predicted, first / cached", "transition (of the run)", "most memory of a device",
              "most sent by a device"]
    return report.table(header, rows) if rows else None


def systems_table(jobs):
    """Hours of T5-Base on MRPC in the shape of PAC's Table 2."""
    largest = max((job["devices"] for job in jobs), default=0)
    rows = []
    for system in SYSTEMS:
        for technique in TECHNIQUES:
            found = [job for job in jobs if job["system"] == system and job["technique"] == technique
                     and job["devices"] == (1 if system == "standalone" else largest) and job["share"] != 1.0
                     and not job["memory_bytes"] and not job.get("budget_bytes") and is_full(job)]
            if not found:
                continue
            done = [job for job in found if is_done(job)]
            best = min(done, key=hours) if done else found[0]
            paper = PAPER_HOURS.get((system, technique), "–")
            rows.append([
                SYSTEMS[system], TECHNIQUES[technique], grouping(best) if done else "–",
                f"{first_rate(best):.2f}" if done else "–", f"{hours(best):.2f} h" if done else why(best),
                "OOM" if paper is None else paper if paper == "–" else f"{paper:.2f} h"])
    header = ["system", "technique", "stages", "first epoch, samples/s", "MRPC, 3 epochs", "PAC's Table 2"]
    return report.table(header, rows) if rows else None


def headline(jobs):
    """PAC against the best rival and against one device, beside the paper's factors."""
    largest = max((job["devices"] for job in jobs), default=0)
    done = [job for job in jobs if is_done(job) and job["share"] != 1.0 and not job["memory_bytes"]
            and not job.get("budget_bytes") and is_full(job)]
    own = [job for job in done if job["system"] == "pac" and job["technique"] == "parallel" and job["devices"] == largest]
    rivals = [job for job in done if job["system"] in ("ecofl", "eddl") and job["technique"] != "parallel"]
    alone = [job for job in done if job["system"] == "standalone" and job["technique"] in ("lora", "houlsby")]
    if not own:
        return None
    best = min(map(hours, own))
    parts = []
    if rivals:
        rival = min(rivals, key=hours)
        parts.append(f"against the best rival ({SYSTEMS[rival['system']]}, {TECHNIQUES[rival['technique']]}) "
                     f"{hours(rival) / best:.2f}x (paper on MRPC: 2.21x)")
    if alone:
        parts.append(f"against one device with {TECHNIQUES[min(alone, key=hours)['technique']]} "
                     f"{hours(min(alone, key=hours)) / best:.2f}x (paper: 8.64x)")
    return f"PAC on {largest} devices: " + ", ".join(parts) + "." if parts else None


def memory_table(jobs):
    rows = [[job["name"], "trained" if is_done(job) else why(job),
             f"{max((job.get('memory_peaks') or {}).values(), default=0) / MIB:.0f} MiB" if is_done(job) else "–"]
            for job in jobs if job["memory_bytes"]]
    return report.table(["under a memory limit", "outcome", "most memory of a device"], rows) if rows else None


def digests(jobs):
    """Whether all jobs of one technique made the same adapter of the same rows."""
    lines = []
    for technique, name in TECHNIQUES.items():
        found = [job for job in jobs if job["technique"] == technique and is_done(job) and is_full(job)]
        # Under a memory limit fewer rows will do: another adapter.
        rows = collections.Counter(job.get("rows") for job in found).most_common(1)
        found = [job for job in found if job.get("rows") == rows[0][0]]
        different = {job["digest"] for job in found}
        if len(found) > 1:
            lines.append(f"- {name}: {len(found)} jobs, " + (
                f"one adapter, bit for bit (`{found[0]['digest'][:16]}…`)" if len(different) == 1
                else f"**{len(different)} different adapters**"))
    return "\n".join(lines)


def facts(run):
    machine, options = run["machine"], run["options"]
    loud = run["load_before"] > 0.25 * machine["processors"]
    where = ("daemons on 127.0.0.1 without limits" if options["loopback"]
             else "hosts of `scripts/household` with links of 1 Gbit/s and 0.2 ms, each limited to its share of a processor")
    return "\n".join([
        f"- {machine['processor']}, {machine['processors']} processors, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['system']}; {where}",
        f"- {options['model'].rpartition('/')[2]}, {options['rows']} pairs of MRPC, {options['epochs']} epochs, batches of "
        f"{options['batch']} in units of {options['micro_batch']}, at most {options['length']} tokens, one thread and at "
        f"most {options['device_memory']} MiB a device; techniques without a cache one epoch of "
        f"{options.get('baseline_rows', options['rows'])} pairs, Full by its rate behind the first step, which is computed twice",
        *(["- a virtual machine, whose free pages stay with it while jobs run"] if run.get("kept_pages") else []),
        "- hours of MRPC are the measured rates times 3,668 samples and 3 epochs: extrapolated, on emulated devices",
        f"- load before the run: {run['load_before']:.2f}" + (" (**not a quiet machine: do not publish**)" if loud else "")])


def markdown(run):
    jobs = run["jobs"]
    parts = [facts(run)]
    for title, text in (("Households of several sizes (PAC's Fig. 9):", sizes_table(jobs)),
                        ("Systems (PAC's Table 2):", systems_table(jobs)), (None, headline(jobs)),
                        ("Memory:", memory_table(jobs)), ("Adapters:", digests(jobs))):
        if text:
            parts += [title, text] if title else [text]
    return "\n\n".join(parts) + "\n"
