"""The figures that cowfs is to reach, as ratios of speed within one run."""

_PEERS = {
    "read-4k": {"qemu": 6, "xmount": 2.5, "null": 0.95},
    "read-4k-2x16": {"qemu": 5, "xmount": 3, "null": 0.95},
    "read-1m": {"qemu": 6, "xmount": 2.5, "null": 0.95},
    "write-4k": {"qemu": 4, "xmount": 2.5, "null": 0.75},
    "write-4k-2x16": {"qemu": 4, "xmount": 6, "null": 0.75},
    "write-1m": {"qemu": 2.5, "xmount": 1.5, "null": 0.8},
}
_LOOP = 0.85  #: of a loop device on the raw file, in every column; cowfs's as README recommends
_UBD = 0.85  #: of UML's own COW driver
_COPIES_MIB = 32  #: what a guest's reads may leave in the page cache besides the backing


def compare(results, rows, columns):
    """What was wanted and what was reached, of what was measured; as README's keys tell."""
    ours = next((row.name for row in rows if row.kind == "ours"), None)
    found = []
    for column in columns:
        against = [(ours, peer, least) for peer, least in _PEERS.get(column.name, {}).items()]
        against += [(f"{ours}-loop-direct", "loop", _LOOP)]
        if column.name.startswith("guest-"):
            against += [(ours, "ubd-cow", _UBD)]
        for row, other, least in against:
            reached = results.speed_ratio(row, other, column)
            if reached is not None:
                found.append({"column": column.name, "row": row, "against": other,
                              "at_least": least, "reached": reached, "met": reached >= least})
        copies = results.copies(ours, column.name)
        if column.name.startswith("guest-") and copies is not None:
            found.append({"column": column.name, "row": ours, "against": "page cache, MiB",
                          "at_most": _COPIES_MIB, "reached": copies,
                          "met": copies <= _COPIES_MIB})
    return found
