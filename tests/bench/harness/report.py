"""The results: kept, printed as a table, written as JSON."""

import statistics

from harness import wanted
from harness.memory import MIB


class Results:
    def __init__(self):
        self.samples = {}  #: (row's name, column's name) -> [Sample]
        self.notes = []
        self.about = {}

    def add(self, row, column, sample):
        self.samples.setdefault((row.name, column.name), []).append(sample)

    def rate(self, row, column):
        return self._median(row, column, "rate")

    def cpu(self, row, column):
        return self._median(row, column, "cpu")

    def copies(self, row, column):
        """MiB, the most of all rounds."""
        taken = self._values(row, column, "copies")
        return max(taken) / MIB if taken else None

    def speed_ratio(self, row, other, column):
        """How many times as fast one row is as another; None if one was not measured."""
        ours, theirs = self.rate(row, column.name), self.rate(other, column.name)
        if not ours or not theirs:
            return None
        return theirs / ours if column.less else ours / theirs

    def document(self, rows, columns):
        """Everything, as JSON has it; its keys are those that tests/bench/README.md names."""
        return {
            "about": self.about,
            "rows": [{"name": row.name, "title": row.title, "kind": row.kind} for row in rows],
            "columns": [{"name": column.name, "title": column.title, "unit": column.unit,
                         "better": "less" if column.less else "more", "cpu_of": column.cpu_of}
                        for column in columns],
            "results": [self._entry(row, column) for row in rows for column in columns
                        if (row.name, column.name) in self.samples],
            "wanted": wanted.compare(self, rows, columns),
            "notes": self.notes,
        }

    def _entry(self, row, column):
        copies = self.copies(row.name, column.name)
        return {
            "row": row.name, "column": column.name,
            "median": self.rate(row.name, column.name),
            "cpu_seconds": self.cpu(row.name, column.name),
            **({} if copies is None else {"copies_mib": copies}),
            "samples": [sample.rate for sample in self.samples[row.name, column.name]],
        }

    def _values(self, row, column, field):
        values = [getattr(sample, field) for sample in self.samples.get((row, column), [])]
        return [value for value in values if value is not None]

    def _median(self, row, column, field):
        values = self._values(row, column, field)
        return statistics.median(values) if values else None


def print_names(rows, columns):
    for kind, items in (("rows", rows), ("columns", columns)):
        print(f"{kind}:")
        for item in items:
            print(f"  {item.name:<18}{item.title}")


def print_table(results, rows, columns, relative_to):
    width = max(12, *(len(row.name) + 2 for row in rows))
    about = results.about
    print(f"{about['cpu']}, {about['cpus']} CPUs, Linux {about['kernel']}, files on "
          f"{about['file_system']}; medians of {about['rounds']} rounds in turns")
    for name, version in about["versions"].items():
        print(f"  {name}: {version}")
    print("\nRates; or seconds, of which less is better")
    _lines(rows, columns, width, lambda row, column: _short(results.rate(row, column.name)))
    print(f"\nSo many times as fast as {relative_to or 'the first row that has a figure'}")
    _lines(rows, columns, width, lambda row, column: _plain(results.speed_ratio(
        row, relative_to or _first(results, rows, column), column)))
    print("\nCPU seconds for each GiB, or run: the server's processes and the client's; not the "
          "kernel's own threads")
    _lines(rows, columns, width, lambda row, column: _plain(results.cpu(row, column.name)))
    print("\nMiB in the page cache besides those of the files behind, at most")
    _lines(rows, [column for column in columns
                  if any(results.copies(row.name, column.name) is not None for row in rows)],
           width, lambda row, column: _plain(results.copies(row, column.name)))
    _print_wanted(wanted.compare(results, rows, columns))
    for text in results.notes:
        print(f"note: {text}")


def _first(results, rows, column):
    return next((row.name for row in rows if results.rate(row.name, column.name)), None)


def _print_wanted(figures):
    print("\nWanted and reached")
    for figure in figures:
        limit = f">= {figure['at_least']:g}" if "at_least" in figure \
            else f"<= {figure['at_most']:g}"
        print(f"  {figure['column']:<16}{figure['row'] + ' : ' + figure['against']:<30}"
              f"{limit:>8}{figure['reached']:>10.2f}  {'' if figure['met'] else 'MISSED'}")


def _lines(rows, columns, width, cell):
    print(" " * 42 + "".join(f"{row.name:>{width}}" for row in rows))
    for column in columns:
        cells = "".join(f"{cell(row.name, column):>{width}}" for row in rows)
        print(f"{column.title[:34]:<34}{column.unit:>8}{cells}")


def _short(value):
    if value is None:
        return "-"
    return f"{value / 1000:.1f}k" if value >= 10000 else f"{value:.3g}"


def _plain(value):
    return "-" if value is None else f"{value:.2f}"
