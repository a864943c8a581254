"""What all measurements on one kind of image share: its files, and how long to measure."""

import contextlib
import os
import random
import shutil
import sys
import tempfile

from harness.processes import BenchError

FRAME = 1 << 20


class Bench:
    """A backing in a directory of its own, and a plain copy of it for those that have no COW."""

    def __init__(self, work, seconds, make):
        """`work`: a directory that is made; `make`: function (path) that makes the backing."""
        work.mkdir()
        self.work = work
        self.seconds = seconds
        self.backing = work / "backing"
        self._raw = work / "raw"
        make(self.backing)
        self.backing.chmod(0o444)
        self.size = self.backing.stat().st_size

    def raw(self):
        """A plain copy of the backing; made when it is first asked for."""
        if not self._raw.exists():
            shutil.copyfile(self.backing, self._raw)
            settle(self._raw)
        return self._raw

    def forget_raw(self):
        """Somebody has changed the copy: the next one who asks gets another."""
        self._raw.unlink(missing_ok=True)

    def files(self):
        return [self.backing, *([self._raw] if self._raw.exists() else [])]

    def drop(self):
        """Takes the files out of the page cache."""
        for file in self.files():
            drop(file)

    def warm(self):
        """Brings the files into the page cache."""
        for file in self.files():
            read_through(file)


def settle(file):
    """Writes a file's changes to disk, so that this does not disturb who comes next."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drop(file):
    """Takes a file out of the page cache."""
    with open(file, "rb") as opened:
        os.fdatasync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(file):
    """Reads a file from its beginning to its end."""
    buffer = bytearray(FRAME)
    with open(file, "rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass


def write_random(path, size):
    """A file that nothing can compress; the same in each run."""
    generator = random.Random(1)
    with open(path, "wb") as file:
        for begin in range(0, size, FRAME):
            file.write(generator.randbytes(min(FRAME, size - begin)))
        file.flush()
        os.fsync(file.fileno())


def warm_memory(directory, size):
    """Sees to it that so many pages that a file's cache is about to take are really there.

    The host of a virtual machine takes free memory back within seconds: to give it again costs more
    than all that is measured here, and would hit whoever comes first. So a file is written, and
    removed before it goes to the disk: what it leaves is what the next file gets.
    """
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        frame = bytes(FRAME)
        for _ in range(0, size, FRAME):
            file.write(frame)


def in_turn(chosen, turn):
    """The same in another order in each round (the rows of a Williams square): what one leaves behind
    (memory, dirty pages) meets another. In as many rounds as there are of them each comes first once.
    """
    chosen = list(chosen)
    zigzag = [(step + 1) // 2 * (1 if step % 2 else -1) for step in range(len(chosen))]
    return [chosen[(turn + place) % len(chosen)] for place in zigzag]


def need_space(directory, size):
    """BenchError when a file system has no room for so many bytes."""
    there = os.statvfs(directory)
    free = there.f_bavail * there.f_frsize
    if free < size:
        raise BenchError(f"{directory}: {size >> 20} MiB are needed, {free >> 20} MiB are free; "
                         "give another place with --dir, or smaller sizes")


@contextlib.contextmanager
def removed_after(path):
    """The name of a file that is removed at the end."""
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def note(text):
    """Tells how far it is."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
