"""Every second sector of a large image changed: what that costs its reads, and `cowfs info`.

In a region at the image's beginning (--region) the changes are real: written through the mount, a
sector at a time, in random order, over a backing that has data there. In the rest of the image
the same pattern is set in the COW's bitmap, and the data behind it is left a hole: all of it would
take the image's size on disk, since a file system gives a block of 4 KiB for each second sector.
With a region as large as the image all of it is real.
"""

import re
import statistics
import time

from harness.bench import in_turn, need_space, note, write_random
from harness.columns import FioColumn, run_fio
from harness.memory import MIB
from harness.processes import run as run_program
from harness.rows import Served
from harness.scale.page_tables import Place
from harness.scale.section import Section

SECTOR, BITMAP = 512, 8192  #: bytes; where the bitmap of a COW that cowfs makes begins
EVERY_SECOND = bytes([0x55])  #: sector i is bit i % 8 of byte i / 8; the even ones
READS = (
    FioColumn("read-4k", "", "IOPS", "randread", 4096),
    FioColumn("read-4k-2x16", "", "IOPS", "randread", 4096, depth=16, jobs=2),
    FioColumn("read-1m", "", "MiB/s", "read", MIB),
)
COLUMNS = (
    ("read-4k", "random 4 KiB", "IOPS"),
    ("read-4k-2x16", "4 KiB, 2 x 16", "IOPS"),
    ("read-1m", "in order 1 MiB", "MiB/s"),
    ("all-4k", "4 KiB all over", "IOPS"),
    ("info_s", "info", "s"),
    ("extents", "COW's extents", ""),
)
OF_UNFRAGMENTED, INFO_S = 0.7, 1.0


def run(setting):
    size, region = setting.arguments.image_size << 30, setting.arguments.region * MIB
    need_space(setting.work, 3 * region + size // 4096 + (64 << 20))
    rounds = setting.arguments.rounds
    section = Section("many-changes", f"Many changes: {size >> 30} GiB, every second sector "
                      f"changed, {region // MIB} MiB of it in random order through the mount; "
                      f"medians of {rounds} rounds in turns", COLUMNS)
    backing = setting.work / "backing"
    write_random(backing, region)
    with open(backing, "r+b") as file:
        file.truncate(size)
    cows = _make(setting, backing, size, region)
    samples = {name: [] for name in cows}
    for turn in range(1, rounds + 1):
        note(f"many-changes: round {turn} of {rounds}")
        for name, cow in in_turn(cows.items(), turn):
            samples[name].append(_measure(setting, backing, cow, region))
    for name, rows in samples.items():
        section.rows.append({"name": name, **{
            key: statistics.median(row[key] for row in rows) for key, *_ in COLUMNS}})
    many, whole = section.rows[:2]
    for key, title, _ in COLUMNS[:4]:
        section.want_at_least(f"{title}: of the unfragmented one's", OF_UNFRAGMENTED,
                              many[key] / whole[key])
    section.want_at_most("info, s", INFO_S, many["info_s"])
    section.notes.append("the first three are reads of the region that was really written; \"all "
                         "over\" reads the whole image, whose rest is holes of COW and backing")
    return section


def _make(setting, backing, size, region):
    """The COWs that are compared."""
    cows = {name: setting.work / f"{place}.cow" for place, name in enumerate(
        ("every second sector", "all in one piece", "no changes"))}
    for cow in cows.values():
        run_program(setting.program, "create", cow, backing)
    many, whole, _ = cows.values()
    note("many-changes: writing each second sector, in random order")
    # blockalign puts each write on an even sector; so half the region is written, each sector once.
    # Without a sync now and then the file system would put the blocks in order.
    scattered = FioColumn("scattered", "", "IOPS", "randwrite", SECTOR, depth=16, once=True,
                          extra=(f"--blockalign={2 * SECTOR}", f"--io_size={region // 2}",
                                 "--fsync=256"))
    in_order = FioColumn("in-order", "", "MiB/s", "write", MIB, once=True)
    for cow, job in ((many, scattered), (whole, in_order)):
        with setting.mounted(backing, cow, create=False) as mount:
            run_fio(job, Place(setting.work, region), Served(mount.point, mount.pids), 3600)
    with open(many, "r+b") as file:
        file.seek(BITMAP + region // SECTOR // 8)
        for _ in range(0, size - region, MIB):
            file.write(EVERY_SECOND * (MIB // SECTOR // 8))
    return cows


def _measure(setting, backing, cow, region):
    result = {"info_s": _time_of_info(setting, cow), "extents": _extents(cow)}
    size = backing.stat().st_size
    with setting.mounted(backing, cow, create=False) as mount:
        served = Served(mount.point, mount.pids)
        place = Place(setting.work, region)
        run_fio(FioColumn("warm", "", "MiB/s", "read", MIB, once=True), place, served, 600)
        for job in READS:
            result[job.name] = _rate(job, run_fio(job, place, served, setting.seconds))
        job = READS[0]
        result["all-4k"] = _rate(job, run_fio(job, Place(setting.work, size), served,
                                              setting.seconds))
    return result


def _rate(job, document):
    read = document["jobs"][0]["read"]
    return read["iops"] if job.unit == "IOPS" else read["bw_bytes"] / MIB


def _time_of_info(setting, cow):
    begin = time.perf_counter()
    run_program(setting.program, "info", cow)
    return time.perf_counter() - begin


def _extents(cow):
    """How many pieces the COW is in on its file system."""
    return int(re.search(r"(\d+) extents? found", run_program("filefrag", cow)).group(1))
