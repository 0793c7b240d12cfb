"""The tables of docs/PERFORMANCE.md from the figures of one run."""
import statistics

BEGIN, END = "<!-- benchmark begin -->", "<!-- benchmark end -->"

# What is compared with what, and how many times faster it has to be (None: measured, no target).
COMPARISONS = [
    ("frozen forward", "hearth forward", "pytorch forward", 1.15),
    ("first-epoch step", "hearth live", "pytorch live", 1.2),
    ("first-epoch step, LoRA", "hearth live", "pytorch lora", 2.0),
    ("cached step", "hearth cached", "pytorch cached", 2.0),
    ("cached step, LoRA", "hearth cached", "pytorch lora", 13.0),
    ("cached step, 3 side heads", "hearth cached, 3 heads", "pytorch cached, 3 heads", None),
]
SGEMM_SHARE_TARGET = 0.85
CACHED_MEMORY_TARGET = 300e6
QUIET = 0.08


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(" --- " for _ in header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def verdict(value, target, at_least=True):
    if target is None:
        return "–"
    reached = value >= target if at_least else value <= target
    return "reached" if reached else "missed"


def recording_of(recordings, *names):
    for recording in recordings:
        if all(recording.seconds(name) for name in names):
            return recording
    return None


def facts(report):
    machine, workers = report["machine"], report["workers"]
    hearth, pytorch = workers["hearth forward"], workers["pytorch forward"]
    versions = {}
    for name, worker in workers.items():
        if name.startswith("pytorch"):
            versions.update(worker["versions"])
    blas = hearth["blas"]
    shares = [share for recordings in report["workloads"].values() for r in recordings for share in r.others]
    repeated = sum(r.repeated for recordings in report["workloads"].values() for r in recordings)
    loud = sum(share > report["options"]["most_others"] for share in shares)
    lines = [
        f"- {machine['processor']}, {machine['processors']} processors, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['system']}",
        f"- {hearth['threads']} threads on both sides, float32, no dropout, mini-batches of 16 "
        f"(Hearth: micro-batches of {report['options']['micro_batch']})",
        f"- Hearth: kernels {hearth['kernels']}, OpenBLAS core {blas['core']} ({blas['library']})",
        "- Peer: " + ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
        + f", CPU capability {pytorch['cpu_capability']}, AdamW fused",
        f"- Others took a median of {100 * statistics.median(shares):.1f} % of the machine during counted steps; "
        f"{repeated} cycles were repeated because they took more than "
        f"{100 * report['options']['most_others']:.0f} %, {loud} count although they did"
        + (" (**not a quiet machine: do not publish**)" if loud > 0.2 * len(shares) else ""),
    ]
    return "\n".join(lines)


def comparison_rows(recordings, lengths_vary):
    rows = []
    for title, ours, theirs, target in COMPARISONS:
        recording = recording_of(recordings, ours, theirs)
        if recording is None:
            continue
        ratios = recording.ratios(ours, theirs)
        ratio = statistics.median(ratios)
        spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
        if lengths_vary:
            rows.append([title, f"{recording.rate(ours):.1f}", f"{recording.rate(theirs):.1f}", f"**{ratio:.2f}×**",
                         spread])
        else:
            rows.append([title, f"{recording.median(ours):.3f} s", f"{recording.median(theirs):.3f} s",
                         f"**{ratio:.2f}×**", spread, f"≥ {target}×" if target else "–", verdict(ratio, target)])
    return rows


def sgemm_rows(report):
    sgemm = report.get("sgemm")
    recording = recording_of(report["workloads"]["16x128"], "hearth forward")
    if sgemm is None or recording is None:
        return []
    seconds = recording.median("hearth forward")
    share = sgemm["seconds"] / seconds
    return [[
        "frozen forward's rate against OpenBLAS's on the same products",
        f"{sgemm['gigaflop'] / seconds:.0f} GFLOP/s", f"{sgemm['gigaflop'] / sgemm['seconds']:.0f} GFLOP/s",
        f"**{100 * share:.0f} %**", f"≥ {100 * SGEMM_SHARE_TARGET:.0f} %", verdict(share, SGEMM_SHARE_TARGET)]]


def memory_rows(report):
    rows = []
    for name, memory in report["memory"].items():
        rows.append([name] + [f"{memory[key] / 1e6:.0f} MB" for key in
                              ("anonymous_bytes", "file_bytes", "peak_bytes")])
    return rows


def markdown(report):
    """All tables of a run as Markdown."""
    parts = [facts(report)]
    fixed = report["workloads"]["16x128"]
    parts.append("Steps of 16 × 128 tokens (+ 4 decoder tokens), median seconds; the ratio is the median of the ratios "
                 "of neighbouring steps, its range beside it:")
    parts.append(table(["step", "Hearth", "PyTorch", "faster by", "range", "target", ""], comparison_rows(fixed, False)))
    rows = sgemm_rows(report)
    if rows:
        parts.append(table(["products", "whole forward", "OpenBLAS", "share", "target", ""], rows))
    for name, recordings in report["workloads"].items():
        if name != "16x128":
            parts.append(f"Real lengths, {name}, samples a second (PyTorch pads to the longest of the batch):")
            parts.append(table(["step", "Hearth", "PyTorch", "faster by", "range"], comparison_rows(recordings, True)))
    parts.append("Memory of each process after its 16 × 128 steps:")
    parts.append(table(["process", "anonymous", "mapped files", "peak of both"], memory_rows(report)))
    cached = report["memory"].get("hearth cached")
    if cached:
        parts.append(f"Target for Hearth's cached phase: ≤ {CACHED_MEMORY_TARGET / 1e6:.0f} MB in all; "
                     + verdict(cached["peak_bytes"], CACHED_MEMORY_TARGET, at_least=False) + ".")
    if "allocations" in report:
        counts = report["allocations"]["after_warm_up"]
        parts.append(f"Heap allocations of {len(counts)} cached steps after warm-up: {sum(counts)} (target: 0).")
    for name, families in report.get("profile", {}).items():
        parts.append(f"Where the processor time of a step goes, {name}:")
        parts.append(table(["family", "share"], [[family, f"{100 * share:.1f} %"] for family, share in families]))
    return "\n\n".join(parts) + "\n"


def plain(report):
    """The report as values that JSON knows."""
    return {
        **report,
        "workloads": {
            name: [recording.summary() for recording in recordings]
            for name, recordings in report["workloads"].items()},
        "comparisons": {
            name: {
                title: {"ratio": statistics.median(recording.ratios(ours, theirs)), "target": target}
                for title, ours, theirs, target in COMPARISONS
                if (recording := recording_of(recordings, ours, theirs)) is not None}
            for name, recordings in report["workloads"].items()},
    }


def replace(path, text, first=BEGIN, last=END):
    """Replaces what stands between two marks of a document."""
    with open(path) as file:
        document = file.read()
    before, begin, rest = document.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise SystemExit(f"scripts/benchmark: {path} has no '{first}' … '{last}'")
    with open(path, "w") as file:
        file.write(f"{before}{begin}\n\n{text}\n{end}{after}")
