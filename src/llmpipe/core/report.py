"""Reports: plain data in, one Markdown text or one self-contained HTML page out.

Stages describe their numbers as `Section`s and never see HTML. The page needs no script and no
network: the style sheet is inside, plots are inline SVG, and colors follow the reader's light or
dark setting through CSS variables. Plots are drawn here rather than by matplotlib because `core`
stays light and a report must not cost seconds of import.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

Cell = str | int | float


@dataclass(frozen=True)
class Prose:
    """Text in paragraphs. A blank line starts a new paragraph; words in `backticks` are set as code."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; a column whose cells are all numbers is set flush right."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Code:
    """Text to show as it is, for example a sample of a model."""

    text: str
    caption: str = ""


@dataclass(frozen=True)
class LinePlot:
    """Curves over one pair of axes, each a list of (x, y)."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    is_small: bool = False
    """Half as high: for curves that matter only where they look odd."""


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, one for each (name, value), in the given order."""

    title: str
    rows: Sequence[tuple[str, float]]
    unit: str = ""


@dataclass(frozen=True)
class Transcript:
    """A conversation: (role, text) in order, shown as a chat."""

    turns: Sequence[tuple[str, str]]


Block = Prose | Table | Code | LinePlot | Bars | Transcript


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]
    is_folded: bool = False
    """On a page only the heading shows until it is opened: for details that few want."""


# ---------------------------------------------------------------------------------------- numbers


def format_number(value: float) -> str:
    """Return a number as people read it: grouped thousands, at most four significant digits."""
    if isinstance(value, int):
        return f"{value:,}"
    if math.isfinite(value) and abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def round_ticks(low: float, high: float, n_wanted: int = 5) -> list[float]:
    """Return about `n_wanted` round numbers that cover `low`..`high`, ends included.

    The step is 1, 2 or 5 times a power of ten, the smallest that needs no more than `n_wanted`
    steps. Equal ends are moved apart first, so that a flat curve still gets an axis.
    """
    if low == high:
        margin = abs(low) / 2 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / n_wanted
    power = 10.0 ** math.floor(math.log10(rough))
    # The small allowance keeps 0.30000000000000004 from asking for the next larger step.
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _format_ticks(ticks: Sequence[float]) -> list[str]:
    """Give all ticks of an axis the same number of decimals, or the same suffix."""
    step, largest = ticks[1] - ticks[0], max(map(abs, ticks))
    scales = ((1e9, "B"), (1e6, "M"), (1e4, "k"))
    fitting = (scale for scale in scales if largest >= scale[0] and step >= scale[0] / 1000)
    size, suffix = next(fitting, (1.0, ""))
    ticks, step = [tick / size for tick in ticks], step / size
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals > 6:
        return [f"{tick:.3g}" for tick in ticks]
    # `i * step` makes zero an exact 0.0; it needs no decimals and no suffix.
    return [f"{tick:,.{decimals}f}{suffix}" if tick else "0" for tick in ticks]


def _is_numeric(cell: Cell) -> bool:
    """Tell whether a cell is a number, or text made of a number and a unit such as `12.3 MB`."""
    return not isinstance(cell, str) or bool(
        re.fullmatch(r"[-+]?\d[\d,.]*\s?[%A-Za-z/]{0,8}", cell)
    )


def _numeric_columns(table: Table) -> list[bool]:
    columns = range(len(table.headers))
    return [bool(table.rows) and all(_is_numeric(row[i]) for row in table.rows) for i in columns]


def _cell_text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else format_number(cell)


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _thin(points: list[tuple[float, float]], n_buckets: int = 400) -> list[tuple[float, float]]:
    """Keep the lowest and highest point of each stretch: the drawing looks the same, and is small."""
    if len(points) <= 2 * n_buckets:
        return points
    kept = [points[0]]
    for i in range(n_buckets):
        start, stop = (len(points) * k // n_buckets for k in (i, i + 1))
        stretch = range(start, stop)
        low = min(stretch, key=lambda k: points[k][1])
        high = max(stretch, key=lambda k: points[k][1])
        kept += [points[k] for k in sorted({low, high})]
    return [*kept, points[-1]]


# --------------------------------------------------------------------------------------- Markdown


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Render a report as GitHub-flavored Markdown; plots become tables of their numbers."""
    parts = [f"# {_md_escape(title)}"]
    for section in sections:
        parts.append(f"## {_md_escape(section.title)}")
        parts += [_md_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _md_escape(text: str) -> str:
    """Keep text from being read as markup, in one line."""
    escaped = re.sub(r"([\\`*\[<|])|&(?=#?\w+;)", lambda m: "\\" + m[0], text)
    return " ".join(escaped.split())


def _md_table(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    rules = ["--:" if numeric else "---" for numeric in _numeric_columns(Table(headers, rows))]
    lines = [[_md_escape(header) for header in headers], rules]
    lines += [[_md_escape(_cell_text(cell)) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _md_block(block: Block) -> str:
    match block:
        case Prose(text):
            # Prose is written by a stage and may hold `code`; only raw HTML is taken from it.
            return text.strip().replace("<", "&lt;")
        case Table(headers, rows):
            return _md_table(headers, rows)
        case Code(text, caption):
            longest = max((len(run) for run in re.findall("`+", text)), default=0)
            fence = "`" * max(3, longest + 1)
            heading = f"{_md_escape(caption)}\n\n" if caption else ""
            return f"{heading}{fence}text\n{text.rstrip()}\n{fence}"
        case LinePlot(title, x_label, y_label, series):
            rows = []
            for name, points in series.items():
                if found := _finite(points):
                    ys = [y for _, y in found]
                    rows.append([name, len(found), ys[0], min(ys), max(ys), ys[-1], found[-1][0]])
            headers = ["series", "points", "first", "lowest", "highest", "last", f"last {x_label}"]
            return f"**{_md_escape(title)}** ({_md_escape(y_label)})\n\n{_md_table(headers, rows)}"
        case Bars(title, rows, unit):
            table = _md_table(["name", unit or "value"], rows)
            return f"**{_md_escape(title)}**\n\n{table}"
        case Transcript(turns):
            said = [(role, text.strip().replace("<", "&lt;")) for role, text in turns]
            quoted = [(role, "\n".join(f"> {x}" for x in text.split("\n"))) for role, text in said]
            return "\n\n".join(f"**{_md_escape(role)}**\n\n{text}" for role, text in quoted)


# ------------------------------------------------------------------------------------------- HTML

_N_COLORS = 6

# The page forbids itself to load anything, so that a hole in the escaping could not do harm.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def to_html(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """Render a report as one HTML page that needs no other file, no script and no network."""
    body = [f"<header><h1>{escape(title)}</h1>"]
    if subtitle:
        body.append(_html_prose(subtitle))
    body.append("</header>")
    if len(sections) > 2:
        links = [f'<a href="#s{i}">{escape(s.title)}</a>' for i, s in enumerate(sections, start=1)]
        body.append(f'<nav aria-label="Sections">{"".join(links)}</nav>')
    body.append("<main>")
    for i, section in enumerate(sections, start=1):
        heading = f"<h2>{escape(section.title)}</h2>"
        blocks = [_html_block(block) for block in section.blocks]
        if section.is_folded:
            blocks = [f"<details><summary>{heading}</summary>", *blocks, "</details>"]
        else:
            blocks = [heading, *blocks]
        body += [f'<section id="s{i}">', *blocks, "</section>"]
    body.append("</main>")
    style = (files("llmpipe") / "resources" / "report" / "style.css").read_text(encoding="utf-8")
    return _PAGE.format(title=escape(title), style=style, body="\n".join(body))


def _html_block(block: Block) -> str:
    match block:
        case Prose(text):
            return _html_prose(text)
        case Table():
            return _html_table(block)
        case Code(text, caption):
            heading = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
            return f"<figure>{heading}<pre>{escape(text.rstrip())}</pre></figure>"
        case LinePlot():
            return _html_plot(block)
        case Bars():
            return _html_bars(block)
        case Transcript(turns):
            said = [
                f'<li class="{"user" if role == "user" else "other"}"><span>{escape(role)}</span>'
                f"<div>{escape(text.strip())}</div></li>"
                for role, text in turns
            ]
            return f'<ol class="chat">{"".join(said)}</ol>'


def _html_prose(text: str) -> str:
    paragraphs = re.split(r"\n\s*\n", text.strip())
    marked = [re.sub("`([^`]+)`", r"<code>\1</code>", escape(part)) for part in paragraphs]
    return "\n".join(f"<p>{part}</p>" for part in marked)


def _html_table(table: Table) -> str:
    css = [' class="n"' if numeric else "" for numeric in _numeric_columns(table)]
    head = [f"<th scope=col{c}>{escape(h)}</th>" for h, c in zip(table.headers, css, strict=True)]
    rows = []
    for row in table.rows:
        cells = zip(row, css, strict=True)
        rows.append("".join(f"<td{c}>{escape(_cell_text(cell))}</td>" for cell, c in cells))
    lines = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="table"><table><thead><tr>{"".join(head)}</tr></thead>'
        f"<tbody>\n{lines}</tbody></table></div>"
    )


def _html_bars(bars: Bars) -> str:
    largest = max((value for _, value in bars.rows), default=0) or 1
    unit = f" {bars.unit}" if bars.unit else ""
    lines = [
        f"<div><span>{escape(name)}</span>"
        f'<svg aria-hidden="true"><rect width="{max(0, value / largest):.2%}" height="100%"/></svg>'
        f"<b>{escape(format_number(value) + unit)}</b></div>"
        for name, value in bars.rows
    ]
    caption = f"<figcaption>{escape(bars.title)}</figcaption>"
    return f'<figure>{caption}<div class="bars">{"".join(lines)}</div></figure>'


def _html_plot(plot: LinePlot) -> str:
    """Draw curves. The SVG stretches with the page; labels are HTML, so that they never shrink."""
    caption = f"<figcaption>{escape(plot.title)}</figcaption>"
    series = {name: points for name, given in plot.series.items() if (points := _finite(given))}
    if not series:
        return f'<figure>{caption}<p class="empty">no numbers yet</p></figure>'
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    y_ticks = round_ticks(min(ys), max(ys))
    bottom, top = y_ticks[0], y_ticks[-1]
    # The curve uses the whole width, so ticks beyond the data are left out; y is rounded outwards.
    left, right = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 1, max(xs) + 1)
    x_ticks = round_ticks(left, right, n_wanted=6)

    def across(x: float) -> float:
        return 100 * (x - left) / (right - left)

    def down(y: float) -> float:
        return 100 * (top - y) / (top - bottom)

    drawing = [f'<path class="grid" d="M0 {down(y):.2f}H100"/>' for y in y_ticks]
    labels = [
        f'<span class="y" style="top:{down(y):.2f}%">{label}</span>'
        for y, label in zip(y_ticks, _format_ticks(y_ticks), strict=True)
    ] + [
        f'<span class="x" style="left:{across(x):.2f}%">{label}</span>'
        for x, label in zip(x_ticks, _format_ticks(x_ticks), strict=True)
        if left <= x <= right
    ]
    legend, spoken = [], []
    for i, (name, points) in enumerate(series.items()):
        corners = [f"{across(x):.2f} {down(y):.2f}" for x, y in _thin(points)]
        # A path of one corner would draw nothing; a line to itself with round ends is a dot.
        path, dot = ("L".join(corners), "") if len(corners) > 1 else ("L".join(corners * 2), " dot")
        drawing.append(f'<path class="c{i % _N_COLORS}{dot}" d="M{path}"/>')
        sample = f'<svg aria-hidden="true"><path class="c{i % _N_COLORS}" d="M1 6H23"/></svg>'
        legend.append(f"<span>{sample}{escape(name)}</span>")
        spoken.append(f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}")
    description = escape(f"{plot.title}: {plot.y_label} over {plot.x_label}; {'; '.join(spoken)}")
    return (
        f'<figure>{caption}<div class="plot"><div class="top"><i>{escape(plot.y_label)}</i>'
        f'<span class="legend">{"".join(legend)}</span></div>'
        f'<div class="frame{" small" if plot.is_small else ""}">'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{description}">{"".join(drawing)}</svg>'
        f'{"".join(labels)}</div><i class="below">{escape(plot.x_label)}</i></div></figure>'
    )
