"""How it is measured: in a User-Mode Linux guest whose root file system is on the image.

The rows are what stands behind the guest's ubd0: UML's own COW driver, or a file that it opens as
a plain disk. The guest opens it as UML does, through the page cache, so what a row caches on top
of the backing is measured beside the rates.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

from harness.bench import note, write_random
from harness.columns import Sample, Session
from harness.memory import MIB, watch
from harness.processes import BenchError, cpu_seconds, family, run, wait_until

UML_RUN = pathlib.Path(__file__).resolve().parents[2] / "interop" / "uml-run"
DATA = 256 * MIB
PATIENCE = 300.0  #: seconds; a boot takes one or two


class Guest:
    """A guest that is running; see `running`."""

    def __init__(self, process, share, log):
        self.begin = time.time()
        self.process = process
        self._share = share
        self._log = log

    def when(self, name):
        """Seconds from the start until the guest made this file; waits for it."""
        marker = self._share / name
        wait_until(lambda: marker.exists() or self.process.poll() is not None,
                   f"guest: {name}", PATIENCE)
        if not marker.exists():
            said = self._log.read_text(errors="replace").strip().splitlines()
            raise BenchError(f"the guest has ended: {said[-1] if said else 'no message'}")
        return marker.stat().st_mtime - self.begin

    def tell(self, name):
        """Makes a file that the guest's script waits for."""
        (self._share / name).touch()

    def cpu(self):
        """CPU seconds so far, of all its processes."""
        return cpu_seconds(family(self.process.pid))


@contextlib.contextmanager
def running(guest, disk, script, memory="96M"):
    """Boots a guest from ubd0=`disk`; in its script /host is what `when` and `tell` look at.

    `guest`: the directory that build-guest made. At the end the guest is waited for if its script
    is done, else ended.
    """
    private = pathlib.Path(tempfile.mkdtemp(prefix="cowfs-bench-guest."))
    try:
        share, log = private / "share", private / "log"
        share.mkdir()
        (private / "script").write_text(script)
        with open(private / "script", "rb") as stdin, open(log, "wb") as output:
            process = subprocess.Popen(
                [UML_RUN, "-s", share, "-t", str(int(PATIENCE)), "-r", "ubd0", f"mem={memory}",
                 f"ubd0={disk}"], stdin=stdin, stdout=output, stderr=output,
                env={**os.environ, "UML_GUEST": str(guest)}, start_new_session=True)
        try:
            yield Guest(process, share, log)
        finally:
            _end(process, (share / "done").exists())
    finally:
        shutil.rmtree(private)


def _end(process, done):
    """uml-run ends its guest when it is asked to."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60 if done else 0)
        return
    process.send_signal(signal.SIGTERM)
    process.wait()


@dataclasses.dataclass(frozen=True)
class BootColumn:
    """Until the guest's first shell runs a command."""
    guest: pathlib.Path
    name: str = "guest-boot"
    title: str = "UML guest: boot to shell"
    unit: str = "s"
    less: bool = True
    cpu_of: str = "boot"

    def measure(self, _bench, served):
        before = cpu_seconds(served.pids)
        with watch(served.copies) as peak, \
                running(self.guest, served.ubd, ">/host/booted; >/host/done") as guest:
            seconds = guest.when("booted")
            cost = guest.cpu() + cpu_seconds(served.pids) - before
            copies = peak()
        return Sample(seconds, cost, copies if served.copies else None)


@dataclasses.dataclass(frozen=True)
class ReadColumn:
    """dd of a file, in the guest."""
    guest: pathlib.Path
    name: str = "guest-read"
    title: str = "UML guest: dd of a file"
    unit: str = "MiB/s"
    less: bool = False
    cpu_of: str = "GiB"

    def measure(self, _bench, served):
        script = ">/host/booted; dd if=/data of=/dev/null bs=1M 2>/dev/null; >/host/done"
        with watch(served.copies) as peak, running(self.guest, served.ubd, script) as guest:
            begin = guest.when("booted")
            before = guest.cpu() + cpu_seconds(served.pids)
            end = guest.when("done")
            cost = guest.cpu() + cpu_seconds(served.pids) - before
            copies = peak()
        return Sample(DATA / MIB / (end - begin), cost / (DATA / (1 << 30)),
                      copies if served.copies else None)


def make_guest_image(guest):
    """A function that makes a backing: the guest's root, with a file larger than its memory."""
    def make(path):
        note("making a guest's root file system")
        with tempfile.TemporaryDirectory(prefix="cowfs-bench-root.", dir=path.parent) as directory:
            root = pathlib.Path(directory) / "root"
            shutil.copytree(guest / "root", root, symlinks=True)
            write_random(root / "data", DATA)
            with open(path, "wb") as file:
                file.truncate(DATA + 128 * MIB)
            run("mke2fs", "-q", "-F", "-t", "ext4", "-E",
                "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0", "-d", root, path)
    return make


def sessions(guest):
    return [Session("guest", (BootColumn(guest), ReadColumn(guest)),
                    prepare=lambda bench, _: bench.warm(), changes=True, image="guest",
                    kinds=("native", "ubd", "ours", "peer"))]
