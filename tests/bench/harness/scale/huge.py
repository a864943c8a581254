"""Images of 8 GiB, 1 TiB and 8 TiB with the same scattered changes: does the size cost anything?

What is read and written is the same for each: pieces at random places all over the image, half of
the places changed ones. So the larger images differ only in how far the places are apart.
"""

import dataclasses
import os
import random
import statistics
import time

from harness import memory
from harness.bench import in_turn, need_space, note
from harness.columns import FioColumn, run_fio
from harness.memory import MIB
from harness.processes import BenchError, run as run_program
from harness.rows import Served
from harness.scale.page_tables import Place
from harness.scale.section import Section

PIECE, BLOCK = 64 << 10, 4096
READS, WRITES = 100000, 20000  #: at most; until the time is over
SIZES = {"8 GiB": 8 << 30, "1 TiB": 1 << 40, "8 TiB": 8 << 40}
COLUMNS = (
    ("mount_ms", "mount", "ms"),
    ("rss_mib", "RSS, both", "MiB"),
    ("anon_mib", "anonymous", "MiB"),
    ("changed_iops", "read changed", "IOPS"),
    ("unchanged_iops", "read unchanged", "IOPS"),
    ("rewrite_iops", "write changed", "IOPS"),
    ("fresh_iops", "write fresh", "IOPS"),
    ("walk_us", "SEEK_DATA walk", "us/extent"),
)
LESS = {"mount_ms", "rss_mib", "anon_mib", "walk_us"}
WITHIN = 0.9


@dataclasses.dataclass
class Image:
    """A sparse backing and a COW with changes; places are numbers of pieces."""
    name: str
    backing: object
    cow: object
    changed: list
    unchanged: list


def run(setting):
    rounds = setting.arguments.rounds
    need_space(setting.work, len(SIZES) * 3 * setting.arguments.changes * MIB // 2)
    section = Section("huge", f"Huge images: sparse, with {setting.arguments.changes} MiB of "
                      f"scattered changes; medians of {rounds} rounds in turns", COLUMNS)
    images = [_make(setting, name, size) for name, size in SIZES.items()]
    samples = {image.name: [] for image in images}
    for turn in range(1, rounds + 1):
        note(f"huge: round {turn} of {rounds}")
        for image in in_turn(images, turn):
            samples[image.name].append(_measure(setting, image, turn))
    for name, rows in samples.items():
        section.rows.append({"name": name, **{
            key: statistics.median(row[key] for row in rows) for key, *_ in COLUMNS}})
    smallest = section.rows[0]
    for row in section.rows[1:]:
        for key, title, _ in COLUMNS:
            ratio = smallest[key] / row[key] if key in LESS else row[key] / smallest[key]
            section.want_at_least(f"{row['name']}, {title}: as good as 8 GiB", WITHIN, ratio)
    section.notes += [
        "RSS, anonymous: supervisor and worker, after the reads and the walk",
        f"reads and writes: {BLOCK} bytes, depth 1, O_DIRECT, at random places",
    ]
    return section


def _make(setting, name, size):
    note(f"huge: {name}")
    generator = random.Random(3)
    backing = setting.work / f"{name.replace(' ', '')}.backing"
    try:
        with open(backing, "wb") as file:
            file.truncate(size)
    except OSError as error:
        raise BenchError(f"{backing}: {error.strerror}; a file of {name} needs XFS, or ext4 with "
                         "blocks of 4 KiB: give a place with --dir") from error
    # Changes are on even pieces only, so that none touches another.
    count = setting.arguments.changes * MIB // PIECE
    pairs = size // PIECE // 2
    image = Image(name, backing, setting.work / f"{backing.stem}.cow",
                  [2 * place for place in generator.sample(range(pairs), count)],
                  [2 * place + 1 for place in generator.sample(range(pairs), count)])
    run_program(setting.program, "create", image.cow, backing)
    with setting.mounted(backing, image.cow, create=False) as mount:
        changes = [(place * PIECE, PIECE) for place in image.changed]
        if (done := _replay(setting, mount, "write", changes, 600))["total_ios"] != count:
            raise BenchError(f"fio wrote {done['total_ios']} of {count} changes")
    return image


def _measure(setting, image, turn):
    generator = random.Random(turn)

    def blocks(places, count):
        chosen = generator.choices(places, k=count)
        return [(place * PIECE + generator.randrange(PIECE // BLOCK) * BLOCK, BLOCK)
                for place in chosen]

    result = {"mount_ms": _time_to_mount(setting, image)}
    with setting.mounted(image.backing, image.cow, create=False) as mount:
        for key, kind, places, count in (
                ("changed_iops", "read", image.changed, READS),
                ("unchanged_iops", "read", image.unchanged, READS)):
            result[key] = _replay(setting, mount, kind, blocks(places, count),
                                  setting.seconds)["iops"]
        result["walk_us"] = _walk(mount.point)
        used = memory.processes(mount.pids)
        result["rss_mib"], result["anon_mib"] = used["VmRSS"] / MIB, used["Pss_Anon"] / MIB
        for key, places in (("rewrite_iops", image.changed), ("fresh_iops", image.unchanged)):
            result[key] = _replay(setting, mount, "write", blocks(places, WRITES),
                                  setting.seconds)["iops"]
    return result


def _time_to_mount(setting, image):
    point = image.cow.with_name("point")
    point.touch()
    begin = time.perf_counter()
    run_program(setting.program, "mount", image.cow, point)
    taken = time.perf_counter() - begin
    run_program(setting.program, "umount", point)
    point.unlink()
    return taken * 1000


def _replay(setting, mount, kind, ranges, seconds):
    """fio does these accesses, (offset, length), in this order; returns what it says of them."""
    log = setting.work / "iolog"
    name = mount.point
    lines = ["fio version 2 iolog", f"{name} add", f"{name} open",
             *(f"{name} {kind} {offset} {length}" for offset, length in ranges), f"{name} close"]
    log.write_text("\n".join(lines) + "\n")
    job = FioColumn("replay", "", "IOPS", f"rand{kind}", BLOCK, once=True,
                    extra=(f"--read_iolog={log}",))
    place = Place(setting.work, mount.point.stat().st_size)
    return run_fio(job, place, Served(mount.point, mount.pids), seconds)["jobs"][0][kind]


def _walk(path):
    """Microseconds for each extent of data that lseek finds."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        begin, found, offset = time.perf_counter(), 0, 0
        while True:
            try:
                offset = os.lseek(descriptor, offset, os.SEEK_DATA)
            except OSError:  # ENXIO: there is no more
                break
            offset = os.lseek(descriptor, offset, os.SEEK_HOLE)
            found += 1
        return (time.perf_counter() - begin) * 1e6 / max(found, 1)
    finally:
        os.close(descriptor)
