"""What a benchmark needs to know about the machine: who used the processors, and how much memory a process holds."""
import mmap
import os
import platform

# From this order on blocks of free pages go back to a virtual machine's host; no block is larger than the order before it.
PAGE_REPORTING = "/sys/module/page_reporting/parameters/page_reporting_order"
NO_PAGE_REPORTING = 11
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def busy_seconds():
    """Processor seconds that all processes together have used since boot."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _wait, interrupt, soft, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + interrupt + soft + steal) / TICKS_PER_SECOND


def process_seconds(pids):
    """Processor seconds that the given processes (all their threads) have used."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as stat:
            # The command name may hold spaces; the fields after its closing parenthesis do not.
            fields = stat.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_SECOND


def process_memory(pid="self"):
    """Bytes of a process: anonymous memory, mapped files, and the peak of both together."""
    fields = {}
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            name, _, rest = line.partition(":")
            if name in ("RssAnon", "RssFile", "VmHWM"):
                fields[name] = int(rest.split()[0]) * 1024
    return {
        "anonymous_bytes": fields["RssAnon"],
        "file_bytes": fields["RssFile"],
        "peak_bytes": fields["VmHWM"],
    }


def process_usage(pid):
    """What a process holds now: resident bytes, of them its own and those of files, open file descriptors, threads."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status if ":" in line)
    return {
        "resident_bytes": int(fields["VmRSS"].split()[0]) * 1024,
        "own_bytes": int(fields["RssAnon"].split()[0]) * 1024,
        "file_bytes": int(fields["RssFile"].split()[0]) * 1024,
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(fields["Threads"]),
    }


class KeptPages:
    """While it is entered, a virtual machine's host takes no free pages back, and has given all of them before.

    A device has its memory to itself. Where a host takes free pages back, each is fetched again at its first touch, which took
    12 us in place of 3.5 on the machine of docs/PERFORMANCE.md, most of all of what is touched once on each of eight devices.
    """

    def __enter__(self):
        self.before = None
        try:
            with open(PAGE_REPORTING) as file:
                before = file.read().strip()
            with open(PAGE_REPORTING, "w") as file:
                file.write(str(NO_PAGE_REPORTING))
        except OSError:
            return self
        self.before = before
        try:
            self.touch()
        except BaseException:
            # Interrupted: what was set must not stay.
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.before is not None:
            with open(PAGE_REPORTING, "w") as file:
                file.write(self.before)

    @property
    def are_kept(self):
        return self.before is not None

    @staticmethod
    def touch():
        """Touches what is free, but for some that the system may need meanwhile."""
        with open("/proc/meminfo") as file:
            free = next(int(line.split()[1]) for line in file if line.startswith("MemFree")) * 1024
        size = max(mmap.PAGESIZE, free - (2 << 30)) & -mmap.PAGESIZE
        with mmap.mmap(-1, size) as pages:
            for start in range(0, size, mmap.PAGESIZE):
                pages[start] = 1


def description():
    """The facts of this machine that decide speed."""
    facts = {"processor": platform.machine(), "processors": os.cpu_count(), "system": platform.platform()}
    with open("/proc/cpuinfo") as cpuinfo:
        for line in cpuinfo:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                facts["processor"] = value.strip()
                break
    with open("/proc/meminfo") as meminfo:
        facts["memory_bytes"] = int(meminfo.readline().split()[1]) * 1024
    return facts
