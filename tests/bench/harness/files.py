"""How it is measured: an ext4 on a loop device on the image, with a real source tree in it.

The backing holds the file system with the tree; what the columns change goes into the COW. The
loop device is what `mount -o loop` makes (buffered). The file system is mounted anew before each
command, so that it knows nothing of the files yet; the backing itself is in the page cache.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from harness.bench import drop, note
from harness.columns import Sample, Session
from harness.memory import watch
from harness.processes import BenchError, cpu_seconds, run, unmount
from harness.rows import loop_device

TREE = pathlib.Path("/usr/include/boost")  #: cowfs needs it itself; the same on all Debian 12
GIT = ("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost",
       "-c", "safe.directory=*", "-c", "gc.auto=0", "--no-optional-locks", "-C")


@dataclasses.dataclass(frozen=True)
class TreeColumn:
    """A command on the mounted tree. `writes`: its changes are on disk only after a sync."""
    name: str
    title: str
    command: object  #: function (directory, Bench) -> words
    writes: bool = False
    unit: str = "s"
    less: bool = True
    cpu_of: str = "run"

    def measure(self, bench, served):
        for file in served.copies:  # what the column before has left
            drop(file)
        with device_on(served) as device, watch(served.copies) as peak, \
                mounted(device) as directory:
            before = cpu_seconds(served.pids)
            begin = time.perf_counter()
            client = run_measured(self.command(directory, bench))
            if self.writes:
                client += run_measured(["sync", "--file-system", directory])
            seconds = time.perf_counter() - begin
            server = cpu_seconds(served.pids) - before
            copies = peak()
        return Sample(seconds, client + server, copies if served.copies else None)


def run_measured(words):
    """Runs a command; returns the CPU seconds that it took."""
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    said = process.stderr.read().strip()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode != 0:
        raise BenchError(f"{words[0]}: {said or f'status {process.returncode}'}")
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def device_on(served):
    """A loop device on what a row serves, if it is not one itself."""
    if served.path.is_block_device():
        yield served.path
        return
    with loop_device(served.path) as device:
        yield device


@contextlib.contextmanager
def mounted(device):
    """A file system, mounted for as long as it lasts."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="cowfs-bench-mounted."))
    try:
        run("mount", device, directory)
        yield directory
    finally:
        unmount(directory)
        directory.rmdir()


def make_ext4(path, size):
    """An empty ext4 that has nothing left to do in the background."""
    with open(path, "wb") as file:
        file.truncate(size)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-N", 1 << 16,
        "-E", "lazy_itable_init=0,lazy_journal_init=0", path)


def make_tree_image(path):
    """A backing with a git work tree, and beside it the tree as an archive."""
    if not TREE.is_dir():
        raise BenchError(f"{TREE}: is not there (scripts/setup --bench installs it)")
    note("making a file system with a source tree")
    make_ext4(path, 512 << 20)
    run("tar", "-cf", path.with_name("tree.tar"), "-C", TREE.parent, TREE.name)
    with loop_device(path) as device, mounted(device) as directory:
        tree = directory / "tree"
        shutil.copytree(TREE, tree, symlinks=True)
        run("git", "init", "-q", tree)
        for words in (("add", "-A"), ("commit", "-q", "-m", "tree"), ("gc", "-q")):
            run(*GIT, tree, *words)


def sessions():
    return [Session("tree", (
        TreeColumn("find", "find in a tree, loop-mounted",
                   lambda directory, _: ["find", directory / "tree", "-printf", "%s\n"]),
        TreeColumn("git-status", "git status, loop-mounted",
                   lambda directory, _: [*GIT, directory / "tree", "status", "--porcelain"]),
        TreeColumn("untar", "untar and sync, loop-mounted",
                   lambda directory, bench: ["tar", "-xf", bench.work / "tree.tar",
                                             "-C", directory], writes=True),
    ), prepare=lambda bench, _: bench.warm(), kinds=("loop", "peer"), image="tree", changes=True)]
