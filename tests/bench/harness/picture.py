"""Draws the results as SVG: for each column a group of bars, one a row, relative to the best."""

from xml.sax.saxutils import escape

COLOURS = ("#9aa0a6", "#5f6368", "#1a73e8", "#8ab4f8", "#34a853", "#fbbc04", "#ea4335", "#a142f4",
           "#24c1e0", "#795548", "#607d8b")
WIDTH, LABEL, BAR, GAP, TOP = 900, 270, 9, 14, 60


def svg(document):
    """The picture as text. Bars are rates, in parts of the highest of their column."""
    medians = {(entry["row"], entry["column"]): entry["median"] for entry in document["results"]}
    rows = [row for row in document["rows"] if any(key[0] == row["name"] for key in medians)]
    columns = [column for column in document["columns"]
               if any(key[1] == column["name"] for key in medians)]
    parts, y = [], TOP
    for column in columns:
        group, height = _group(column, rows, medians, y)
        parts += group
        y += height + GAP
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{y}" fill="white"/>',
        *_legend(rows), *parts, "</svg>", ""])


def _legend(rows):
    parts = []
    for number, row in enumerate(rows):
        x, y = 10 + number % 4 * 220, 10 + number // 4 * 16
        parts.append(f'<rect x="{x}" y="{y}" width="10" height="10" fill="{_colour(number)}"/>'
                     f'<text x="{x + 15}" y="{y + 9}">{escape(row["title"])}</text>')
    return parts


def _group(column, rows, medians, top):
    present = [(number, medians[row["name"], column["name"]])
               for number, row in enumerate(rows) if (row["name"], column["name"]) in medians]
    best = max(rate for _, rate in present) or 1
    height = len(present) * BAR
    parts = [f'<text x="{LABEL - 10}" y="{top + height / 2 + 4:.0f}" text-anchor="end">'
             f'{escape(column["title"])}</text>']
    for place, (number, rate) in enumerate(present):
        y, length = top + place * BAR, max(1, (WIDTH - LABEL - 110) * rate / best)
        parts.append(f'<rect x="{LABEL}" y="{y}" width="{length:.0f}" height="{BAR - 1}" '
                     f'fill="{_colour(number)}"/>'
                     f'<text x="{LABEL + length + 4:.0f}" y="{y + BAR - 1}" font-size="8">'
                     f'{_number(rate)} {escape(column["unit"])}</text>')
    return parts, height


def _colour(number):
    return COLOURS[number % len(COLOURS)]


def _number(rate):
    return f"{rate / 1000:.1f}k" if rate >= 10000 else f"{rate:.3g}"
