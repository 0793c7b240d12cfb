"""Where a worker's steps spend processor time, by family of kernels (sampled with perf)."""
import os
import re
import shutil
import signal
import subprocess
import time

SECONDS = 6
WARM_UP_STEPS = 2

# The first pattern that matches a line "object symbol" of perf's report names its family.
FAMILIES = [
    ("system (kernel)", r"\[k\]"),
    ("matrix products (OpenBLAS)", r"openblas"),
    # Before the packed products: attention multiplies its blocks with kernels of its own.
    ("attention", r"[aA]ttention|attn|weighted_sums|outer_sums|pack_head"),
    # The tiles of the streamed head are among them.
    ("matrix products (own)", r"gemm|multiply|Multiply|matmul|\btile_|pack_transposed|run_edge"),
    ("loss and softmax", r"[sS]oftmax|[cC]rossEntropy|cross_entropy|log_sum_exp|streamedHead"),
    ("norms", r"[nN]orm"),
    ("reading the cache (decode, encode)", r"[dD]ecode|[eE]ncode|preadv|f16|half"),
    ("optimizer", r"[aA]dam|sum_?[oO]f_?[sS]quares"),
    ("exact reduction", r"[fF]ixed|accumulate|[aA]ccumulator"),
    ("activations and element-wise", r"[aA]ctivat|gelu|relu|blend|add_?[rR]ows|column_?[sS]ums|scale|gather"),
    ("memory copies", r"memcpy|memmove|memset|_avx512_unaligned|_evex_unaligned"),
    ("waiting for the other thread", r"[tT]eam|pthread|futex|spin|yield"),
]


def family(line):
    """The family of one line of the report."""
    for name, pattern in FAMILIES:
        if re.search(pattern, line):
            return name
    return "other"


def profile(worker, directory):
    """Samples some seconds of a worker's steps; a list of (family, share), largest first."""
    if shutil.which("perf") is None:
        raise SystemExit("scripts/benchmark: --profile needs perf (apt-get install linux-perf)")
    for _ in range(WARM_UP_STEPS):
        worker.ask("step")
    data = os.path.join(directory, "perf.data")
    sampler = subprocess.Popen(
        ["perf", "record", "--quiet", "--event", "cpu-clock", "--freq", "499", "--pid", str(worker.pid),
         "--output", data], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    start = time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        worker.ask("step")
    sampler.send_signal(signal.SIGINT)
    sampler.wait()
    lines = subprocess.run(
        ["perf", "report", "--stdio", "--input", data, "--no-children", "--fields", "overhead,dso,symbol"],
        capture_output=True, text=True, check=True).stdout.splitlines()
    shares = {}
    for line in lines:
        match = re.match(r"\s*([0-9.]+)%\s+(.*)", line)
        if match:
            name = family(match.group(2))
            shares[name] = shares.get(name, 0) + float(match.group(1)) / 100
    return sorted(shares.items(), key=lambda item: -item[1])
