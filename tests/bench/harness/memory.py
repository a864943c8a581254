"""What files and processes take of the machine's memory."""

import contextlib
import ctypes
import os
import threading

from harness.processes import run

MIB = 1 << 20
_CACHESTAT = 451  #: the system call's number, the same on all machines; since Linux 6.5
_libc = ctypes.CDLL(None, use_errno=True)


class _Range(ctypes.Structure):
    _fields_ = [("offset", ctypes.c_uint64), ("length", ctypes.c_uint64)]


class _Stat(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in
                ("cached", "dirty", "writeback", "evicted", "recently_evicted")]


def cached_bytes(opened):
    """How much of an open file is in the page cache. Changes nothing there."""
    everything, found = _Range(0, 0), _Stat()
    if _libc.syscall(_CACHESTAT, opened.fileno(), ctypes.byref(everything), ctypes.byref(found),
                     0) == 0:
        return found.cached * os.sysconf("SC_PAGE_SIZE")
    words = run("fincore", "--bytes", "--noheadings", "--output", "RES", opened.name).split()
    return int(words[0])


@contextlib.contextmanager
def highest(measure, seconds):
    """Yields a function that tells the highest value that measure() had since."""
    most, end = [0], threading.Event()

    def look():
        most[0] = max(most[0], measure())

    def repeat():
        while not end.wait(seconds):
            look()

    def peak():
        look()
        return most[0]

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield peak
    finally:
        end.set()
        thread.join()


def watch_open(opened):
    """`highest` of how much of open files was in the page cache at the same time."""
    return highest(lambda: sum(map(cached_bytes, opened)), 0.02)


@contextlib.contextmanager
def watch(files):
    """The same for files by name."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open(file, "rb", buffering=0)) for file in files]
        yield stack.enter_context(watch_open(opened))


def machine():
    """Of /proc/meminfo, in bytes; `files`: the page cache without shared memory; `programs`: what
    is not the page cache, but for the kernel's own."""
    with open("/proc/meminfo", encoding="ascii") as file:
        table = {line.split(":")[0]: int(line.split()[1]) << 10 for line in file}
    table["files"] = table["Cached"] + table["Buffers"] - table["Shmem"]
    table["programs"] = sum(table[name] for name in
                            ("AnonPages", "Shmem", "PageTables", "KernelStack"))
    return table


def processes(pids):
    """Of processes together, in bytes: Pss, Pss_Anon, Private, VmPTE, VmRSS; without ended ones."""
    total = dict.fromkeys(("Pss", "Pss_Anon", "Private", "VmPTE", "VmRSS"), 0)
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            _add(total, f"/proc/{pid}/smaps_rollup")
            _add(total, f"/proc/{pid}/status")
    return total


def _add(total, path):
    with open(path, encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, rest = line.partition(":")
            name = "Private" if name in ("Private_Clean", "Private_Dirty") else name
            if name in total:
                total[name] += int(rest.split()[0]) << 10
