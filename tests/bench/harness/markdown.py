"""The kept results as the tables of README.md."""

from harness.scale.section import number

OTHERS = (("native", "of the raw file"), ("null", "of null FUSE"), ("qemu", "x qemu"),
          ("nbdkit", "x nbdkit"), ("xmount", "x xmount"), ("ubd-cow", "of UML's COW"))


def data_path(document):
    """Lines: the machine, a row for each column, and what was missed."""
    about = document["about"]
    medians = {(entry["row"], entry["column"]): entry for entry in document["results"]}
    ours = next(row["name"] for row in document["rows"] if row["kind"] == "ours")
    lines = [f"Medians of {about['rounds']} rounds in turns: {machine(about)}. "
             f"Versions: {_versions(about)}.", ""]
    titles = ["", ours, "CPU s", *(title for _, title in OTHERS), "loop on it, of loop", "with direct I/O"]
    lines += _head(titles)
    for column in document["columns"]:
        lines.append(_row([column["title"], *_cells(medians, ours, column)]))
    lines += ["", "CPU s: seconds of the server and its client for each GiB, or for one run. "
              "The other columns are ratios of speed: 2 is twice as fast.", ""]
    return lines + _missed(document["wanted"], document["notes"],
                           lambda figure: f"{figure['column']}, {figure['row']} against "
                                          f"{figure['against']}")


def scale(document):
    """Lines: a table for each section, and what was missed."""
    lines = []
    for section in document["sections"].values():
        lines += [f"**{section['title']}**", ""]
        lines += _head(["", *(f"{column['title']}{_unit(column)}"
                              for column in section["columns"])])
        for row in section["rows"]:
            lines.append(_row([row["name"], *(number(row.get(column["key"]))
                                              for column in section["columns"])]))
        lines += ["", *(f"{note[0].upper()}{note[1:]}." for note in section["notes"]), ""]
        lines += _missed(section["wanted"], [], lambda figure: figure["what"])
    return lines


def export(document):
    """Lines: a row for each column with the ratios of cowfs to the others, and what was missed."""
    about = document["about"]
    others = [name for name in document["rows"] if not name.startswith("cowfs")]
    ours = [name for name in document["rows"] if name.startswith("cowfs")]
    lines = [f"Medians of {about['rounds']} rounds in turns: {machine(about)} on a loop device.", ""]
    lines += _head(["", *document["rows"], *(f"{row}, of {other}" for row in ours for other in others)])
    for column, medians in document["medians"].items():
        rates = [number(medians.get(row)) for row in document["rows"]]
        ratios = [f"{medians[row] / medians[other]:.2f}" if {row, other} <= medians.keys() else "-"
                  for row in ours for other in others]
        lines.append(_row([column, *rates, *ratios]))
    lines += ["", f"Private memory of an export: {document['idle_kib'] / 1024:.1f} MiB when idle, and "
              f"{document['inode_bytes']:.0f} bytes for each inode that the kernel knows.", ""]
    return lines + _missed(document["wanted"], [], lambda figure: figure["what"])


def machine(about):
    """What it was measured on, in one line."""
    return (f"{about['cpu']}, {about['cpus']} CPUs, {about['memory_mib'] / 1024:.0f} GiB, Linux "
            f"{about['kernel']}, files on {about['file_system']}")


def _versions(about):
    return "; ".join(f"{name} {version}" if name not in version else version
                     for name, version in about["versions"].items())


def _cells(medians, ours, column):
    mine = medians.get((ours, column["name"]))
    looped = medians.get((f"{ours}-loop", column["name"]))
    shown = mine or looped
    yield "-" if shown is None else f"{number(shown['median'])} {column['unit']}"
    yield "-" if shown is None or shown["cpu_seconds"] is None else f"{shown['cpu_seconds']:.2f}"
    for other, _ in OTHERS:
        yield _ratio(column, shown, medians.get((other, column["name"])))
    for entry in (looped, medians.get((f"{ours}-loop-direct", column["name"]))):
        yield _ratio(column, entry, medians.get(("loop", column["name"])))


def _ratio(column, entry, other):
    if entry is None or other is None:
        return "-"
    ratio = entry["median"] / other["median"]
    return f"{1 / ratio if column['better'] == 'less' else ratio:.2f}"


def _missed(wanted, notes, what):
    lines = [f"- {what(figure)}: {figure['reached']:.3g}, wanted "
             + (f"at least {figure['at_least']:g}" if "at_least" in figure
                else f"at most {figure['at_most']:g}")
             for figure in wanted if not figure["met"]]
    lines = [f"Of {len(wanted)} figures that were wanted, {len(wanted) - len(lines)} were reached"
             + (". Missed:" if lines else "."), "", *lines]
    return [*lines, *([""] if lines[-1] else []), *(f"- {note}" for note in notes),
            *([""] if notes else [])]


def _unit(column):
    return f", {column['unit']}" if column["unit"] else ""


def _head(titles):
    return [_row(titles), "|" + "---|" * len(titles)]


def _row(cells):
    return "| " + " | ".join(cells) + " |"
