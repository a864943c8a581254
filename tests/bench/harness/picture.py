"""Draws the results as SVG: how many times as fast as each peer cowfs is, on a logarithmic scale.

The picture has a background of its own, and one for a dark page, so that it can be read on both.
"""

import math
from xml.sax.saxutils import escape

WIDTH, LABEL, BAR, GAP, TOP, RIGHT = 860, 250, 10, 10, 78, 60
PEERS = (("qemu", "light"), ("nbdkit", "middle"), ("xmount", "strong"))
STYLE = """
.back{fill:#fff;stroke:#d0d7de}.text{fill:#1f2328}.grid{stroke:#d8dee4}.one{stroke:#1f2328}
.light{fill:#6cb6ff}.middle{fill:#2da44e}.strong{fill:#8250df}
@media (prefers-color-scheme:dark){
.back{fill:#161b22;stroke:#30363d}.text{fill:#e6edf3}.grid{stroke:#30363d}.one{stroke:#e6edf3}
.light{fill:#6cb6ff}.middle{fill:#3fb950}.strong{fill:#a371f7}}
"""


def svg(document):
    """The picture as text, of the document that `scripts/bench --json` writes."""
    groups = _groups(document)
    highest = max((ratio for _, bars in groups for _, ratio in bars), default=1)
    lowest = min((ratio for _, bars in groups for _, ratio in bars), default=1)
    scale = _Scale(min(lowest, 0.9), max(highest, 2))
    parts, y = [], TOP
    for title, bars in groups:
        parts += _group(title, bars, y, scale)
        y += len(bars) * BAR + GAP
    titles = {row["name"]: row["title"] for row in document["rows"]}
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 8}" '
        f'viewBox="0 0 {WIDTH} {y + 8}" font-family="sans-serif" font-size="12">',
        f"<style>{STYLE}</style>",
        f'<rect class="back" x=".5" y=".5" width="{WIDTH - 1}" height="{y + 7}" rx="6"/>',
        '<text class="text" x="14" y="22" font-size="14">cowfs is so many times as fast as'
        "</text>", *_legend(titles), *scale.grid(TOP - 8, y), *parts, "</svg>", ""])


def _groups(document):
    """[(column's title, [(class of the bar, ratio)])]"""
    medians = {(entry["row"], entry["column"]): entry["median"] for entry in document["results"]}
    ours = next((row["name"] for row in document["rows"] if row["kind"] == "ours"), None)
    found = []
    for column in document["columns"]:
        mine = medians.get((ours, column["name"])) or medians.get((f"{ours}-loop", column["name"]))
        pairs = [(colour, medians.get((peer, column["name"]))) for peer, colour in PEERS]
        bars = [(colour, theirs / mine if column["better"] == "less" else mine / theirs)
                for colour, theirs in pairs if mine and theirs]
        if bars:
            found.append((column["title"], bars))
    return found


class _Scale:
    def __init__(self, lowest, highest):
        self._low, self._high = math.log(lowest), math.log(highest)

    def x(self, ratio):
        part = (math.log(ratio) - self._low) / (self._high - self._low)
        return LABEL + part * (WIDTH - LABEL - RIGHT)

    def grid(self, top, bottom):
        """A line at each of 1, 2, 5, 10, 20, 50 ..."""
        marks = [step * 10 ** power for power in range(-2, 5) for step in (1, 2, 5)]
        parts = []
        for mark in marks:
            if self._low <= math.log(mark) <= self._high:
                x = self.x(mark)
                parts.append(f'<line class="{"one" if mark == 1 else "grid"}" x1="{x:.1f}" '
                             f'x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
                             f'<text class="text" x="{x:.1f}" y="{top - 4}" font-size="10" '
                             f'text-anchor="middle">{mark:g}x</text>')
        return parts


def _legend(titles):
    parts = []
    for place, (peer, colour) in enumerate(entry for entry in PEERS if entry[0] in titles):
        x = 14 + place * 230
        parts.append(f'<rect class="{colour}" x="{x}" y="34" width="12" height="12"/>'
                     f'<text class="text" x="{x + 18}" y="44">{escape(titles[peer])}</text>')
    return parts


def _group(title, bars, top, scale):
    one = scale.x(1)
    parts = [f'<text class="text" x="{LABEL - 12}" y="{top + len(bars) * BAR / 2 + 4:.0f}" '
             f'text-anchor="end">{escape(title)}</text>']
    for place, (colour, ratio) in enumerate(bars):
        x, y = scale.x(ratio), top + place * BAR
        begin, length = min(one, x), max(1.5, abs(x - one))
        parts.append(f'<rect class="{colour}" x="{begin:.1f}" y="{y}" width="{length:.1f}" '
                     f'height="{BAR - 1}"/><text class="text" x="{begin + length + 4:.1f}" '
                     f'y="{y + BAR - 1}" font-size="9">{_number(ratio)}</text>')
    return parts


def _number(ratio):
    return f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2f}"
