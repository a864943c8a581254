"""A large sparse image, read through one mount: what the worker's memory comes to."""

import contextlib
import random

from harness import memory
from harness.bench import need_space, note
from harness.columns import FioColumn, run_fio
from harness.memory import MIB
from harness.rows import Served
from harness.scale.section import Section

PRIVATE_MIB = 16
PIECE = MIB
PATIENCE = 240  #: seconds for each; the table tells how much was read until then
COLUMNS = (
    ("rate_mib", "rate", "MiB/s"),
    ("read_gib", "read", "GiB"),
    ("peak_mib", "anonymous + VmPTE", "MiB, peak"),
    ("anon_mib", "anonymous", "MiB, after"),
    ("pte_mib", "VmPTE", "MiB, after"),
    ("private_mib", "private", "MiB, after"),
    ("backing_mib", "backing cached", "MiB, after"),
    ("copies_mib", "merged cached", "MiB, peak"),
)


def run(setting):
    size, data = setting.arguments.image_size << 30, setting.arguments.data * MIB
    need_space(setting.work, data)
    section = Section("page-tables", f"Page tables: {size >> 30} GiB, of which {data // MIB} MiB "
                      "scattered over it are data and the rest holes, through one mount", COLUMNS)
    backing = setting.work / "backing"
    scatter(backing, size, data)
    jobs = (
        ("in order, O_DIRECT", True, FioColumn("order", "", "MiB/s", "read", MIB, once=True)),
        ("random 1 MiB, O_DIRECT", True,
         FioColumn("random", "", "MiB/s", "randread", MIB, once=True)),
        ("random 4 KiB, O_DIRECT", True, FioColumn("small", "", "MiB/s", "randread", 4096)),
        ("in order, plain", False, FioColumn("plain", "", "MiB/s", "read", MIB, once=True)),
    )
    with setting.mounted(backing, setting.work / "cow") as mount:
        for name, direct, job in jobs:
            note(f"page-tables: {name}")
            row = {"name": name, **_measure(setting, mount, backing, direct, job)}
            section.rows.append(row)
            section.want_at_most(f"{name}: anonymous memory and page tables of the worker, MiB",
                                 PRIVATE_MIB, row["peak_mib"])
    section.notes.append("one mount for all, in this order; private (Private_Clean + Private_Dirty "
                         "of smaps_rollup) also counts pages of the page cache that are mapped")
    return section


def scatter(path, size, data):
    """A sparse file with pieces of data at the same distances all over it."""
    generator = random.Random(2)
    pieces = data // PIECE
    with open(path, "wb") as file:
        file.truncate(size)
        for number in range(pieces):
            file.seek(size // pieces * number // PIECE * PIECE)
            file.write(generator.randbytes(PIECE))


def _measure(setting, mount, backing, direct, job):
    worker = mount.pids[-1:]
    seconds = PATIENCE if job.once else setting.seconds * 10
    place = Place(setting.work, backing.stat().st_size)
    with contextlib.ExitStack() as stack:
        # An open file that is not direct would change how direct ones are served.
        copies = None if direct else stack.enter_context(memory.watch([mount.point]))
        peak = stack.enter_context(memory.highest(lambda: _own_memory(worker), 0.2))
        read = run_fio(job, place, Served(mount.point, mount.pids, direct), seconds)["jobs"][0]
        used = memory.processes(worker)
        behind = stack.enter_context(open(backing, "rb", buffering=0))
        return {
            "rate_mib": read["read"]["bw_bytes"] / MIB,
            "read_gib": read["read"]["io_bytes"] / (1 << 30),
            "peak_mib": peak() / MIB,
            "private_mib": used["Private"] / MIB, "anon_mib": used["Pss_Anon"] / MIB,
            "pte_mib": used["VmPTE"] / MIB,
            "backing_mib": memory.cached_bytes(behind) / MIB,
            "copies_mib": copies() / MIB if copies else None,
        }


class Place:
    """As much of a Bench as run_fio needs."""

    def __init__(self, work, size):
        self.work = work
        self.size = size


def _own_memory(pids):
    used = memory.processes(pids)
    return used["Pss_Anon"] + used["VmPTE"]
