"""Starting and ending programs, and what they cost."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """Something that the user has to know, in one line."""


def run(*command, **options):
    """Runs a command to its end; BenchError with its message if it fails. Returns its output."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise BenchError(f"{' '.join(words)}: {said[-1] if said else f'status {done.returncode}'}")
    return done.stdout


def wait_until(condition, what, seconds=20.0):
    """Returns when condition() holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise BenchError(f"{what}: not so after {seconds:.0f} s")
        time.sleep(0.005)


def is_mounted(path):
    """Asks the kernel's table: a stat would wait for a server that does not answer."""
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        return any(line.split(" ")[4] == str(path) for line in table)


def unmount(path):
    """Unmounts by name, if it is mounted; by force after a while."""
    end = time.monotonic() + 20
    while is_mounted(path):
        late = time.monotonic() > end
        done = subprocess.run(["umount", *(["--lazy"] if late else []), str(path)],
                              capture_output=True, check=False)
        if done.returncode != 0:
            time.sleep(0.02)


@contextlib.contextmanager
def server(log, *command, **options):
    """Runs a program in the background; ends it, and those it started, at the end."""
    with open(log, "wb") as output:
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=output, start_new_session=True,
                                   **options)
    try:
        yield process
    finally:
        _end(process)


def _end(process):
    # After an unmount it ends by itself.
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None and process.poll() is None:
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return


def alive(process, log):
    """Raises BenchError with the last line of its log if a server has ended."""
    if process.poll() is not None:
        said = pathlib.Path(log).read_text(errors="replace").strip().splitlines()
        raise BenchError(f"{process.args[0]} has ended: {said[-1] if said else 'no message'}")
    return True


def family(pid):
    """A process and all that descend from it. Looks at no other process: one that is stuck in the
    kernel could keep who only asks about it."""
    found = [pid]
    for number in found:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{number}/task"):
                with open(f"/proc/{number}/task/{thread}/children", encoding="ascii") as file:
                    found += map(int, file.read().split())
    return found


def cpu_seconds(pids):
    """What processes have used so far, in user space and in the kernel; all their threads."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = _stat(pid)
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def _stat(pid):
    """The fields of /proc/PID/stat from the state on: 0 state, 11 utime, 12 stime."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()
