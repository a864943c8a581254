"""How it is measured: fio's jobs, grouped in sessions.

A session is opened once a round for each row: a fresh image, then its columns one after the other.
So the writes into fresh sectors come first in their session, and "again" after them.
"""

import dataclasses
import json
import subprocess

from harness.bench import warm_memory
from harness.processes import BenchError, cpu_seconds

MIB = 1 << 20


@dataclasses.dataclass
class Sample:
    """One measurement: a rate (or seconds, where the column says that less is better), CPU seconds
    for each `cpu_of` of the column, and the most bytes that were cached on top of the backing."""
    rate: float
    cpu: float | None
    copies: int | None = None


@dataclasses.dataclass(frozen=True)
class FioColumn:
    """A job of fio. `once`: stop when each block was done once, also before the time is over."""
    name: str
    title: str
    unit: str  #: "IOPS" or "MiB/s"
    rw: str
    block: int
    depth: int = 1
    jobs: int = 1
    once: bool = False
    extra: tuple = ()
    less: bool = False
    cpu_of: str = "GiB"

    def measure(self, bench, served):
        if self.once and "write" in self.rw:
            warm_memory(bench.work, bench.size * 5 // 4)
        before = cpu_seconds(served.pids)
        result = run_fio(self, bench, served, bench.seconds)
        server = cpu_seconds(served.pids) - before
        jobs = result["jobs"]
        sides = [job[side] for job in jobs for side in ("read", "write")]
        moved = sum(side["io_bytes"] for side in sides)
        client = sum((job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
                     for job in jobs)
        operations = sum(side["total_ios"] for side in sides)
        # What all jobs did between the first one's begin and the last one's end.
        span = max(max(side["runtime"] for side in sides), 1) / 1000
        rate = operations / span if self.unit == "IOPS" else moved / MIB / span
        return Sample(rate, (server + client) / (moved / (1 << 30)) if moved else None)


def run_fio(column, bench, served, seconds):
    """Runs a column's job and returns what fio says."""
    share = bench.size // column.jobs // column.block * column.block
    limits = [f"--runtime={int(seconds * 1000)}ms"] + ([] if column.once else ["--time_based"])
    command = ["fio", "--name=job", f"--filename={served.path}", "--allow_file_create=0",
               f"--rw={column.rw}", f"--bs={column.block}", f"--size={share}",
               f"--numjobs={column.jobs}", f"--offset_increment={share}", "--group_reporting",
               f"--ioengine={'libaio' if column.depth > 1 else 'psync'}",
               f"--iodepth={column.depth}", f"--direct={int(served.direct)}", "--invalidate=0",
               "--thread", "--fallocate=none", "--gtod_reduce=1", "--randrepeat=0",
               "--random_generator=tausworthe64", "--output-format=json",
               *([] if column.once else ["--norandommap"]), *limits, *column.extra]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=bench.work)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise BenchError(f"fio {column.name}: {said[0] if said else 'failed'}")
    return json.loads(done.stdout[done.stdout.index("{"):])


@dataclasses.dataclass(frozen=True)
class Session:
    """`prepare` is done after the image is served, and before it is measured."""
    name: str
    columns: tuple
    prepare: object = None  #: function (Bench, Served)
    cold: bool = False  #: the files are dropped from the page cache before they are served
    kinds: tuple = ("native", "loop", "ours", "limit", "peer")  #: of rows that take part
    image: str = "random"  #: what is in the backing
    changes: bool = False  #: it matters what is in the image, and the columns change that


def read_through(bench, served):
    """Brings the backing into the page cache."""
    job = FioColumn("warm", "", "MiB/s", "read", MIB, once=True)
    run_fio(job, bench, served, 60)


def fio_sessions():
    random = {"unit": "IOPS", "block": 4096}
    sequential = {"unit": "MiB/s", "block": MIB}
    pair = {"depth": 16, "jobs": 2}
    return [
        Session("reads", (
            FioColumn("read-4k", "random read 4 KiB, depth 1", rw="randread", **random),
            FioColumn("read-4k-2x16", "random read 4 KiB, 2 x 16", rw="randread", **random, **pair),
            FioColumn("read-1m", "sequential read 1 MiB", rw="read", **sequential),
        ), prepare=read_through),
        Session("fresh", (
            FioColumn("write-4k", "random write 4 KiB, depth 1, fresh", rw="randwrite", once=True,
                      **random),
        )),
        Session("fresh-2x16", (
            FioColumn("write-4k-2x16", "random write 4 KiB, 2 x 16, fresh", rw="randwrite",
                      once=True, **random, **pair),
        )),
        Session("again", (
            # All of it, also if that takes longer: the columns after it rely on it.
            FioColumn("write-1m", "sequential write 1 MiB, fresh", rw="write", once=True,
                      extra=("--runtime=60s",), **sequential),
            FioColumn("rewrite-4k", "random write 4 KiB, depth 1, again", rw="randwrite", **random),
            FioColumn("rewrite-4k-2x16", "random write 4 KiB, 2 x 16, again", rw="randwrite",
                      **random, **pair),
            FioColumn("rewrite-1m", "sequential write 1 MiB, again", rw="write", **sequential),
            FioColumn("mixed-4k", "random 4 KiB, 70 % reads, 2 x 16", rw="randrw",
                      extra=("--rwmixread=70",), **random, **pair),
            FioColumn("fsync-32", "random write 4 KiB, fsync every 32", rw="randwrite",
                      extra=("--fsync=32",), **random),
        )),
        Session("cold-4k", (
            FioColumn("cold-4k", "cold random read 4 KiB, depth 1", rw="randread", **random),
        ), cold=True),
        Session("cold-1m", (
            FioColumn("cold-1m", "cold sequential read 1 MiB", rw="read", once=True, **sequential),
        ), cold=True),
    ]
