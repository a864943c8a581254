"""What the sections of tests/bench/scale share: their table, and mounts by name."""

import contextlib
import dataclasses
import pathlib

from harness import rows
from harness.processes import run


@dataclasses.dataclass
class Section:
    """A table: `columns` are (key, title, unit); `rows` have a "name" and a value for each key."""
    name: str
    title: str
    columns: tuple
    rows: list = dataclasses.field(default_factory=list)
    wanted: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)

    def want_at_most(self, what, limit, reached):
        self.wanted.append({"what": what, "at_most": limit, "reached": reached,
                            "met": reached <= limit})

    def want_at_least(self, what, limit, reached):
        self.wanted.append({"what": what, "at_least": limit, "reached": reached,
                            "met": reached >= limit})

    def document(self):
        """As JSON has it; the keys are those that tests/bench/README.md names."""
        columns = [dict(zip(("key", "title", "unit"), column)) for column in self.columns]
        return {**dataclasses.asdict(self), "columns": columns}

    def print(self):
        print(f"\n{self.title}")
        width = max(16, *(len(title) + 2 for _, title, _ in self.columns))
        first = max(20, *(len(row["name"]) + 2 for row in self.rows))
        print(" " * first + "".join(f"{title:>{width}}" for _, title, _ in self.columns))
        print(" " * first + "".join(f"{unit:>{width}}" for *_, unit in self.columns))
        for row in self.rows:
            print(f"{row['name']:<{first}}"
                  + "".join(f"{number(row.get(key)):>{width}}" for key, *_ in self.columns))
        for figure in self.wanted:
            sign = "at least" if "at_least" in figure else "at most"
            limit = figure.get("at_least", figure.get("at_most"))
            print(f"  wanted: {figure['what']} {sign} {limit:g}; reached {figure['reached']:.3g}"
                  f"{'' if figure['met'] else '  MISSED'}")
        for text in self.notes:
            print(f"  note: {text}")


def number(value):
    """A figure, as short as it is still of use."""
    if value is None:
        return "-"
    if abs(value) >= 10000:
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@dataclasses.dataclass
class Mounted:
    """A mounted COW."""
    point: pathlib.Path
    cow: pathlib.Path
    pids: list  #: the supervisor, then the worker


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the sections are given."""
    program: str
    work: pathlib.Path
    arguments: object

    @property
    def seconds(self):
        return self.arguments.seconds

    @contextlib.contextmanager
    def mounted(self, backing, cow, create=True):
        """A COW, mounted beside it; made first, and removed at the end, unless it is there."""
        point = cow.with_name(cow.name + ".img")
        if create:
            run(self.program, "create", cow, backing)
        point.touch()
        try:
            with rows.mounted(self.program, cow, point, backing.stat().st_size) as pids:
                yield Mounted(point, cow, pids)
        finally:
            point.unlink()
            if create:
                cow.unlink()
