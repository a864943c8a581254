"""Many UML guests that boot at once: the time to the last shell, and what memory they take."""

import contextlib
import shutil
import statistics

from harness import guests, memory
from harness.bench import drop, in_turn, need_space, note, settle
from harness.memory import MIB
from harness.processes import run as run_program
from harness.scale.section import Section

SCRIPT = ">/host/booted; while [ ! -e /host/release ]; do sleep 0.2; done; >/host/done"
COLUMNS = (
    ("last_shell_s", "last shell", "s"),
    ("first_shell_s", "first shell", "s"),
    ("used_mib", "memory, all of it", "MiB"),
    ("programs_mib", "programs", "MiB"),
    ("images_mib", "images cached", "MiB"),
    ("servers_mib", "of it cowfs", "MiB"),
    ("available_mib", "MemAvailable fell", "MiB"),
)


def run(setting):
    arguments = setting.arguments
    image = arguments.guest / "root.ext4"
    need_space(setting.work, image.stat().st_size * (arguments.guests + 1))
    section = Section("guests", f"{arguments.guests} UML guests of {arguments.guest_memory} MiB "
                      f"booting at once; medians of {arguments.rounds} rounds in turns", COLUMNS)
    backing = setting.work / "backing"
    shutil.copyfile(image, backing)
    backing.chmod(0o444)
    kinds = {"cowfs, one backing": _cowfs, "UML's own COWs, one backing": _ubd,
             "full copies": _copies}
    samples = {name: [] for name in kinds}
    for turn in range(1, arguments.rounds + 1):
        for name, disks in in_turn(kinds.items(), turn):
            note(f"guests: round {turn} of {arguments.rounds}: {name}")
            drop(backing)
            before = memory.machine()
            with disks(setting, backing) as (names, files, pids):
                samples[name].append(_boot(arguments, names, [backing, *files], pids, before))
    for name, rows in samples.items():
        section.rows.append({"name": name, **{
            key: statistics.median(row[key] for row in rows) for key, *_ in COLUMNS}})
    ours, ubd, _ = section.rows
    section.want_at_least("speed to the last shell, of UML's own COWs", 0.85,
                          ubd["last_shell_s"] / ours["last_shell_s"])
    section.notes += [
        "measured with all guests up; programs: how much AnonPages, Shmem (the guests' memory), "
        "PageTables and KernelStack of the machine grew; of it cowfs: its anonymous memory",
        "images cached: pages of the backing, the COWs or copies, and the merged files; all of it: "
        "programs and these. MemAvailable counts clean page cache as available",
    ]
    return section


@contextlib.contextmanager
def _cowfs(setting, backing):
    with contextlib.ExitStack() as stack:
        mounts = [stack.enter_context(setting.mounted(backing, setting.work / f"{number}.cow"))
                  for number in range(setting.arguments.guests)]
        files = [file for mount in mounts for file in (mount.cow, mount.point)]
        yield [mount.point for mount in mounts], files, [pid for mount in mounts
                                                         for pid in mount.pids]


@contextlib.contextmanager
def _ubd(setting, backing):
    cows = [setting.work / f"{number}.cow" for number in range(setting.arguments.guests)]
    try:
        for cow in cows:
            run_program("uml_mkcow", cow, backing)
        yield [f"{cow},{backing}" for cow in cows], cows, []
    finally:
        _remove(cows)


@contextlib.contextmanager
def _copies(setting, backing):
    copies = [setting.work / f"{number}.raw" for number in range(setting.arguments.guests)]
    try:
        for copy in copies:
            shutil.copyfile(backing, copy)
            settle(copy)
            drop(copy)
        yield copies, copies, []
    finally:
        _remove(copies)


def _remove(files):
    for file in files:
        file.unlink(missing_ok=True)


def _boot(arguments, disks, files, pids, before):
    """One turn: all guests up, measured, and down again."""
    with contextlib.ExitStack() as stack:
        booting = [stack.enter_context(guests.running(
            arguments.guest, disk, SCRIPT, f"{arguments.guest_memory}M")) for disk in disks]
        begin = booting[0].begin
        shells = [guest.when("booted") + guest.begin - begin for guest in booting]
        now = memory.machine()
        programs, images = now["programs"] - before["programs"], _cached(files)
        servers = memory.processes(pids)["Pss_Anon"]
        for guest in booting:
            guest.tell("release")
        for guest in booting:
            guest.when("done")
    return {"last_shell_s": max(shells), "first_shell_s": min(shells),
            "used_mib": (programs + images) / MIB, "programs_mib": programs / MIB,
            "images_mib": images / MIB, "servers_mib": servers / MIB,
            "available_mib": (before["MemAvailable"] - now["MemAvailable"]) / MIB}


def _cached(files):
    total = 0
    for file in files:
        with open(file, "rb", buffering=0) as opened:
            total += memory.cached_bytes(opened)
    return total
