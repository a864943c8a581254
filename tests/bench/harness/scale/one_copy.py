"""N mounts of different COWs on one backing, all read through: what the machine's memory holds."""

import concurrent.futures
import contextlib
import mmap
import os
import time

from harness import memory
from harness.bench import drop, need_space, note, write_random
from harness.memory import MIB
from harness.scale.section import Section

READERS = 4  #: mounts that are read at the same time
COPIES_MIB, PRIVATE_MIB = 32, 3

COLUMNS = (
    ("backing_mib", "backing cached", "MiB"),
    ("copies_mib", "merged, peak", "MiB/mount"),
    ("growth_mib", "meminfo growth", "MiB"),
    ("pss_mib", "PSS", "MiB/mount"),
    ("private_mib", "private", "MiB/mount"),
    ("anon_mib", "anonymous", "MiB/mount"),
    ("pte_mib", "page tables", "MiB/mount"),
    ("rate", "read, together", "MiB/s"),
)


def run(setting):
    size = setting.arguments.size * MIB
    need_space(setting.work, size)
    section = Section("one-copy", "One copy: mounts of different COWs on one backing of "
                      f"{size // MIB} MiB, all read through", COLUMNS)
    backing = setting.work / "backing"
    write_random(backing, size)
    for count in setting.arguments.mounts:
        for direct in (False, True):
            name = f"{count} {'O_DIRECT' if direct else 'plain'}"
            note(f"one-copy: {name}")
            row = {"name": name, **_measure(setting, backing, count, direct)}
            section.rows.append(row)
            section.want_at_most(f"{name}: backing cached, of its size", 1.03,
                                 row["backing_mib"] * MIB / size)
            section.want_at_most(f"{name}: MiB a mount besides the backing", COPIES_MIB,
                                 row["copies_mib"])
            section.want_at_most(f"{name}: anonymous memory of a mount, MiB", PRIVATE_MIB,
                                 row["anon_mib"])
    section.notes += [
        "PSS, private, anonymous (Pss_Anon), page tables (VmPTE): supervisor and worker together, "
        "after the reads. PSS and private also count pages of the page cache that are mapped at "
        "the time, which are in \"backing cached\" already; anonymous is what a mount adds",
        "meminfo growth: Cached + Buffers - Shmem of the whole machine",
    ]
    return section


def _measure(setting, backing, count, direct):
    drop(backing)
    with contextlib.ExitStack() as stack:
        mounts = [stack.enter_context(setting.mounted(backing, setting.work / f"{number}.cow"))
                  for number in range(count)]
        flags = os.O_RDONLY | (os.O_DIRECT if direct else 0)
        files = [stack.enter_context(open(os.open(mount.point, flags), "rb", buffering=0))
                 for mount in mounts]
        behind = stack.enter_context(open(backing, "rb", buffering=0))
        before = memory.machine()["files"]
        peak = stack.enter_context(memory.watch_open(files))
        seconds = _read_all(files)
        used = memory.processes([pid for mount in mounts for pid in mount.pids])
        size = backing.stat().st_size
        return {
            "backing_mib": memory.cached_bytes(behind) / MIB,
            "copies_mib": peak() / MIB / count,
            "growth_mib": (memory.machine()["files"] - before) / MIB,
            "pss_mib": used["Pss"] / MIB / count,
            "private_mib": used["Private"] / MIB / count,
            "anon_mib": used["Pss_Anon"] / MIB / count,
            "pte_mib": used["VmPTE"] / MIB / count,
            "rate": size * count / MIB / seconds,
        }


def _read_all(files):
    """Reads files from begin to end, some of them at a time; returns how long it took."""
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        list(pool.map(_read, files))
    return time.monotonic() - begin


def _read(file):
    with mmap.mmap(-1, MIB) as buffer:  # aligned, as O_DIRECT wants it
        while os.readv(file.fileno(), [buffer]):
            pass
