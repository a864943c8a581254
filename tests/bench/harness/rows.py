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

from harness.bench import removed_after, settle
from harness.processes import (BenchError, alive, family, is_mounted, run, server, unmount,
                               wait_until)


@dataclasses.dataclass
class Served:
    """An image that is being served."""
    path: pathlib.Path
    pids: list  #: the processes that serve it
    direct: bool = True  #: whether its users open it with O_DIRECT
    copies: tuple = ()  #: files whose pages in the cache are there besides those of what is behind
    ubd: str = ""  #: what a UML guest takes for its ubd0=

    def __post_init__(self):
        self.ubd = self.ubd or str(self.path)


@dataclasses.dataclass
class Row:
    """A way to serve an image. `tools`: programs that it needs, the first one tells its version.

    `kind`: "native" the raw file, "loop" a loop device, "ours" cowfs, "limit" has no content,
    "peer" what else makes a file of a backing and changes, "ubd" only for a UML guest.
    """
    name: str
    title: str
    kind: str
    open: object  #: function (Bench) -> context manager of Served
    tools: tuple = ()
    version: tuple = ()  #: command that prints its version

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
def loop_device(file, direct=False):
    """A loop device as `mount -o loop` makes it: what it reads goes through the page cache. A direct
    one reads and writes the file past it, and has several requests under way at once."""
    options = ["--direct-io=on"] if direct else []
    device = run("losetup", "--find", "--show", *options, file).strip()
    try:
        yield pathlib.Path(device)
    finally:
        run("losetup", "--detach", device)


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
def mounted(program, cow, point, size, options=()):
    """A COW, mounted by a cowfs program on an empty file; yields the processes that serve it."""
    log = point.with_name(f"{point.name}.log")
    with removed_after(log), server(log, program, "mount", "--foreground", *options, cow,
                                    point) as process:
        try:
            wait_until(lambda: alive(process, log) and is_mounted(point)
                       and point.stat().st_size == size, f"{program} mount")
            yield family(process.pid)
        finally:
            unmount(point)


def cowfs(program, options=()):
    """The row of one cowfs program."""
    @contextlib.contextmanager
    def opened(bench):
        with removed_after(bench.work / "cow") as cow, mount_point(bench, "file") as point:
            run(program, "create", cow, bench.backing)
            with mounted(program, cow, point, bench.size, options) as pids:
                yield Served(point, pids, copies=(point,))
    return opened


@contextlib.contextmanager
def ubd_cow(bench):
    """User-Mode Linux's own driver of COW files; nothing but a guest can read it."""
    with removed_after(bench.work / "cow") as cow:
        run("uml_mkcow", cow, bench.backing)
        yield Served(cow, [], ubd=f"{cow},{bench.backing}")


def under_loop(inner, direct=False):
    """A row's file under a loop device."""
    @contextlib.contextmanager
    def opened(bench):
        with inner(bench) as served, loop_device(served.path, direct) as device:
            yield Served(device, served.pids, copies=served.copies)
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
    with removed_after(bench.work / "qcow2") as file, mount_point(bench, "file") as point:
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", bench.backing, file)
        with server(log, "qemu-storage-daemon",
                    "--blockdev", f"driver=file,node-name=file,filename={file}",
                    "--blockdev", "driver=qcow2,node-name=disk,file=file",
                    "--export", f"type=fuse,id=export,node-name=disk,mountpoint={point},"
                                "writable=on") as process:
            wait_until(lambda: alive(process, log) and is_mounted(point)
                       and point.stat().st_size == bench.size, "qemu-storage-daemon")
            yield Served(point, family(process.pid), copies=(point,))
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
            yield Served(disk, family(process.pid), copies=(disk,))
            unmount(point)


@contextlib.contextmanager
def xmount(bench):
    """xmount(1): a raw image with a cache file for changes. It goes to the background itself."""
    with (removed_after(bench.work / "xmount-cache") as cache,
          mount_point(bench, "directory") as point):
        before = set(_named("xmount"))
        run("xmount", "--in", "raw", bench.backing, "--cache", cache, "--out", "raw", point)
        wait_until(lambda: is_mounted(point), "xmount")
        pids = sorted(set(_named("xmount")) - before)
        disks = [entry for entry in point.iterdir() if entry.stat().st_size == bench.size]
        if len(disks) != 1:
            raise BenchError(f"xmount: shows no file of {bench.size} bytes")
        yield Served(disks[0], pids, copies=(disks[0],))
        unmount(point)
        wait_until(lambda: not set(pids) & set(_named("xmount")), "xmount ends")


def _named(name):
    """The processes of this name. Asks for nothing else of them, unlike pgrep: see `family`."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == name:
                found.append(int(entry.name))
    return found


def peers():
    """The rows that are not ours."""
    return [
        Row("native", "raw file, page cache", "native", native),
        Row("loop", "loop on the raw file", "loop", loop_on_raw, ("losetup",)),
        Row("qemu", "qemu-storage-daemon, FUSE", "peer", qemu, ("qemu-storage-daemon", "qemu-img"),
            ("qemu-storage-daemon", "--version")),
        Row("nbdkit", "nbdkit cow + nbdfuse", "peer", nbdkit, ("nbdkit", "nbdfuse"),
            ("nbdkit", "--version")),
        Row("xmount", "xmount --cache", "peer", xmount, ("xmount",), ("xmount", "--version")),
        Row("ubd-cow", "UML's own COW driver", "ubd", ubd_cow, ("linux.uml", "uml_mkcow"),
            ("linux.uml", "--version")),
    ]
