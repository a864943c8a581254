"""The results: kept, printed as a table, written as JSON, drawn."""

import statistics

from harness import picture


class Results:
    def __init__(self):
        self.samples = {}  #: (row's name, column's name) -> [Sample]
        self.notes = []
        self.about = {}

    def add(self, row, column, sample):
        self.samples.setdefault((row.name, column.name), []).append(sample)

    def rate(self, row, column):
        taken = self.samples.get((row, column))
        return statistics.median(sample.rate for sample in taken) if taken else None

    def cpu(self, row, column):
        taken = [sample.cpu_per_gib for sample in self.samples.get((row, column), [])
                 if sample.cpu_per_gib is not None]
        return statistics.median(taken) if taken else None

    def document(self, rows, columns):
        """Everything, as JSON has it; its keys are those that README names."""
        results = []
        for row in rows:
            for column in columns:
                taken = self.samples.get((row.name, column.name))
                if not taken:
                    continue
                results.append({
                    "row": row.name, "column": column.name,
                    "median": self.rate(row.name, column.name),
                    "cpu_seconds_per_gib": self.cpu(row.name, column.name),
                    "samples": [sample.rate for sample in taken],
                })
        return {
            "about": self.about,
            "rows": [{"name": row.name, "title": row.title} for row in rows],
            "columns": [{"name": column.name, "title": column.title, "unit": column.unit}
                        for column in columns],
            "results": results,
            "notes": self.notes,
        }


def print_names(rows, columns):
    for kind, items in (("rows", rows), ("columns", columns)):
        print(f"{kind}:")
        for item in items:
            print(f"  {item.name:<18}{item.title}")


def print_table(results, rows, columns, relative_to):
    reference = relative_to or rows[0].name
    width = max(12, *(len(row.name) + 2 for row in rows))
    about = results.about
    print(f"{about['cpu']}, {about['cpus']} CPUs, Linux {about['kernel']}, files on "
          f"{about['file_system']}; medians of {about['rounds']} rounds in turns")
    for name, version in about["versions"].items():
        print(f"  {name}: {version}")
    print("\nRates (more is better)")
    _lines(rows, columns, width, lambda row, column: _short(results.rate(row, column)))
    print(f"\nRatios to {reference}")
    _lines(rows, columns, width, lambda row, column: _ratio(results, row, reference, column))
    print("\nCPU seconds for each GiB: the server's processes and fio; not the kernel's own threads")
    _lines(rows, columns, width, lambda row, column: _plain(results.cpu(row, column)))
    for text in results.notes:
        print(f"note: {text}")


def _lines(rows, columns, width, cell):
    print(" " * 42 + "".join(f"{row.name:>{width}}" for row in rows))
    for column in columns:
        cells = "".join(f"{cell(row.name, column.name):>{width}}" for row in rows)
        print(f"{column.title[:34]:<34}{column.unit:>8}{cells}")


def _short(value):
    if value is None:
        return "-"
    return f"{value / 1000:.1f}k" if value >= 10000 else f"{value:.3g}"


def _plain(value):
    return "-" if value is None else f"{value:.2f}"


def _ratio(results, row, reference, column):
    ours, theirs = results.rate(row, column), results.rate(reference, column)
    return "-" if not ours or not theirs else f"{ours / theirs:.2f}"


def draw(document, path):
    with open(path, "w", encoding="utf-8") as file:
        file.write(picture.svg(document))
