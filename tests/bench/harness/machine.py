"""What the figures were measured on."""

import os
import platform

from harness.processes import BenchError, run


def describe(rows, arguments):
    """Machine, versions and options, for the report."""
    with open("/proc/meminfo", encoding="utf-8") as file:
        memory = int(file.readline().split()[1]) >> 10
    where = arguments.dir or os.environ.get("TMPDIR", "/tmp")
    return {
        "cpu": _cpu(), "cpus": os.cpu_count(), "memory_mib": memory,
        "kernel": platform.release(),
        "file_system": run("findmnt", "-no", "FSTYPE", "-T", where).strip(),
        "fuse_uring": _read("/sys/module/fuse/parameters/enable_uring"),
        "versions": {"fio": run("fio", "--version").strip(), **_versions(rows)},
        "rounds": arguments.rounds, "seconds": arguments.seconds, "size_mib": arguments.size,
    }


def _cpu():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None


def _versions(rows):
    found = {}
    for row in rows:
        if not row.version:
            continue
        try:
            lines = run(*row.version).strip().splitlines()
        except BenchError as error:  # xmount ends with an error after it has told
            lines = [str(error)]
        found[row.name] = lines[0].partition(" Copyright")[0] if lines else "?"
    return found
