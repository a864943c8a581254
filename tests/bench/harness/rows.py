"""What is measured: ways to have a backing and changes of its own as one file.

Each row is set up as its own documentation recommends. A row's `open(bench)` is a context manager:
inside it the image is served, fresh, with no change in it; it yields a Served. After it nothing is
left of it.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess

from harness.processes import (BenchError, alive, family, is_mounted, run, server, unmount,
                               wait_until)


@dataclasses.dataclass
class Served:
    """An image that is being served."""
    path: pathlib.Path
    pids: list  #: the processes that serve it
    direct: bool = True  #: whether its users open it with O_DIRECT


@dataclasses.dataclass
class Row:
    """A way to serve an image. `tools`: programs that it needs, the first one tells its version."""
    name: str
    title: str
    open: object  #: function (Bench) -> context manager of Served
    tools: tuple = ()
    version: tuple = ()  #: command that prints its version
    ours: bool = False

    def missing(self):
        return [tool for tool in self.tools if shutil.which(tool) is None]


@contextlib.contextmanager
def native(bench):
    """The raw file itself, through the page cache: O_DIRECT would measure the disk."""
    yield Served(bench.raw(), [], direct=False)
    settle(bench.raw())


@contextlib.contextmanager
def loop_on_raw(bench):
    with loop_device(bench.raw()) as device:
        yield Served(device, [])
    settle(bench.raw())


@contextlib.contextmanager
def loop_device(file):
    """A loop device as `mount -o loop` makes it: what it reads goes through the page cache."""
    device = run("losetup", "--find", "--show", file).strip()
    try:
        yield pathlib.Path(device)
    finally:
        run("losetup", "--detach", device)


def settle(file):
    """Writes a file's changes to disk, so that this does not disturb who comes next."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def mount_point(bench, kind):
    """An empty file or directory to mount on; unmounted and removed at the end."""
    path = bench.work / f"mount-{kind}"
    path.mkdir() if kind == "directory" else path.touch()
    try:
        yield path
    finally:
        unmount(path)
        path.rmdir() if kind == "directory" else path.unlink()


@contextlib.contextmanager
def overlay(bench, name):
    """The name of a file that is removed at the end, with what of it is not on disk yet."""
    path = bench.work / name
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def cowfs(program, options=()):
    """The row of one cowfs program."""
    @contextlib.contextmanager
    def opened(bench):
        log = bench.work / "log"
        with (overlay(bench, "cow") as cow, mount_point(bench, "file") as point):
            run(program, "create", cow, bench.backing)
            with server(log, program, "mount", "--foreground", *options, cow, point) as process:
                wait_until(lambda: alive(process, log) and is_mounted(point)
                           and point.stat().st_size == bench.size, f"{program} mount")
                yield Served(point, family(process.pid))
                unmount(point)
    return opened


def under_loop(inner):
    """A row's file under a loop device."""
    @contextlib.contextmanager
    def opened(bench):
        with inner(bench) as served, loop_device(served.path) as device:
            yield Served(device, served.pids)
    return opened


def null(program):
    """A server in the same session code that answers reads from memory and forgets writes."""
    @contextlib.contextmanager
    def opened(bench):
        log = bench.work / "log"
        with mount_point(bench, "file") as point:
            with server(log, program, point, bench.size) as process:
                wait_until(lambda: alive(process, log) and is_mounted(point)
                           and point.stat().st_size == bench.size, program)
                yield Served(point, family(process.pid))
                unmount(point)
    return opened


@contextlib.contextmanager
def qemu(bench):
    """qemu-storage-daemon(1): a FUSE export of a qcow2 overlay."""
    log = bench.work / "log"
    with overlay(bench, "qcow2") as file, mount_point(bench, "file") as point:
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", bench.backing, file)
        with server(log, "qemu-storage-daemon",
                    "--blockdev", f"driver=file,node-name=file,filename={file}",
                    "--blockdev", "driver=qcow2,node-name=disk,file=file",
                    "--export", f"type=fuse,id=export,node-name=disk,mountpoint={point},"
                                "writable=on") as process:
            wait_until(lambda: alive(process, log) and is_mounted(point)
                       and point.stat().st_size == bench.size, "qemu-storage-daemon")
            yield Served(point, family(process.pid))
            unmount(point)
            process.terminate()


@contextlib.contextmanager
def nbdkit(bench):
    """nbdfuse(1): `nbdfuse DIR/FILE [ nbdkit ... ]`; the cow filter's overlay is in TMPDIR."""
    log = bench.work / "log"
    with mount_point(bench, "directory") as point:
        with server(log, "nbdfuse", point / "disk", "[", "nbdkit", "--filter=cow", "file",
                    bench.backing, "]", env={**os.environ, "TMPDIR": str(bench.work)}) as process:
            disk = point / "disk"
            wait_until(lambda: alive(process, log) and is_mounted(point) and disk.exists(),
                       "nbdfuse")
            yield Served(disk, family(process.pid))
            unmount(point)


@contextlib.contextmanager
def xmount(bench):
    """xmount(1): a raw image with a cache file for changes. It goes to the background itself."""
    with overlay(bench, "xmount-cache") as cache, mount_point(bench, "directory") as point:
        before = set(_named("xmount"))
        run("xmount", "--in", "raw", bench.backing, "--cache", cache, "--out", "raw", point)
        wait_until(lambda: is_mounted(point), "xmount")
        pids = sorted(set(_named("xmount")) - before)
        disks = [entry for entry in point.iterdir() if entry.stat().st_size == bench.size]
        if len(disks) != 1:
            raise BenchError(f"xmount: shows no file of {bench.size} bytes")
        yield Served(disks[0], pids)
        unmount(point)
        wait_until(lambda: not set(pids) & set(_named("xmount")), "xmount ends")


def _named(name):
    found = subprocess.run(["pgrep", "-x", name], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def peers():
    """The rows that are not ours."""
    return [
        Row("native", "raw file, page cache", native),
        Row("loop", "loop on the raw file", loop_on_raw, ("losetup",)),
        Row("qemu", "qemu-storage-daemon, FUSE", qemu, ("qemu-storage-daemon", "qemu-img"),
            ("qemu-storage-daemon", "--version")),
        Row("nbdkit", "nbdkit cow + nbdfuse", nbdkit, ("nbdkit", "nbdfuse"),
            ("nbdkit", "--version")),
        Row("xmount", "xmount --cache", xmount, ("xmount", "pgrep"), ("xmount", "--version")),
    ]
