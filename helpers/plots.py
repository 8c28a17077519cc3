"""Figures: each function draws on an Axes (or makes one) and returns it; `show` displays them.

The palette is Okabe and Ito's, which colour-blind readers can tell apart, and the same thing has
the same colour in every lesson. What moves is in `widgets`.
"""

import base64
from html import escape
from io import BytesIO

import matplotlib.pyplot as plt
import torch
from IPython.display import display
from matplotlib import font_manager
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from helpers.data import windows

PALETTE = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "orange": "#E69F00",
    "yellow": "#F0E442",
    "black": "#000000",
}
COLOURS = {"train": PALETTE["blue"], "val": PALETTE["vermillion"], "floor": "#555555"}
INK, FAINT_INK, PAPER = "#1A1A1A", "#555555", "#FFFFFF"


# ---------------------------------------------------------------- colours


def mix(colour: str, other: str, share: float) -> str:
    """`colour` with `share` of `other` in it, as #rrggbb."""
    pairs = zip(to_rgb(colour), to_rgb(other))
    return to_hex([(1 - share) * a + share * b for a, b in pairs])


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio of two colours, from 1 (the same) to 21; text needs 4.5."""
    darker, lighter = sorted([_luminance(a), _luminance(b)])
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def readable(colour: str) -> str:
    """`colour` darkened until text in it can be read on white."""
    while contrast(colour, PAPER) < 4.5:
        colour = mix(colour, INK, 0.1)
    return colour


# Neighbouring tokens get neighbouring tints; the tints are pale, so that ink can be read on them.
TINTS = [mix(PALETTE[name], PAPER, 0.62) for name in ("sky", "orange", "green", "purple")]
MARKED, UNMARKED = mix(PALETTE["orange"], PAPER, 0.4), "#EEEEEE"


# ---------------------------------------------------------------- the figure around a plot


def style() -> None:
    """Sets matplotlib's defaults for the course: 6 x 3.2 inches, 110 dots per inch, no box."""
    plt.rcParams.update(
        {
            "figure.figsize": (6, 3.2),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.titlepad": 10,
            "axes.prop_cycle": plt.cycler(color=list(PALETTE.values())),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": FAINT_INK,
            "axes.labelcolor": INK,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#E6E6E6",
            "grid.linewidth": 0.8,
            "xtick.color": FAINT_INK,
            "ytick.color": FAINT_INK,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "lines.linewidth": 1.8,
        }
    )


def show(fig, description: str) -> None:
    """Displays `fig` as one picture, and `description` for those who (or tests which) see none.

    JupyterLab shows no alternative text of a picture, so the words also stand below it, folded.
    """
    picture = BytesIO()
    fig.savefig(picture, format="png", bbox_inches="tight", metadata={"Software": None})
    plt.close(fig)  # or the notebook would show it a second time
    data = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": description}
    display(data, raw=True, metadata={"image/png": {"alt": description}})
    words = f"<details><summary>This figure in words</summary>{escape(description)}</details>"
    display({"text/html": words, "text/plain": description}, raw=True)


def _axes(ax, height: float | None = None):
    if ax is not None:
        return ax
    width, default = plt.rcParams["figure.figsize"]
    return plt.subplots(figsize=(width, height or default))[1]


# ---------------------------------------------------------------- curves and bars


def lines(ax, x, series: dict, xlabel: str, ylabel: str, title: str = "", landmarks=None):
    """Each of `series` {label: y} over x, named at its right end; `landmarks` {label: y} lie flat.

    Labels found in COLOURS get their colour. Set a log scale before, not after: labels are placed
    where they do not touch.
    """
    ax = _axes(ax)
    names = []
    for label, y in series.items():
        (line,) = ax.plot(x, y, color=COLOURS.get(label))
        names.append((y[-1], label, line.get_color()))
    for label, y in (landmarks or {}).items():
        ax.axhline(y, color=COLOURS.get(label, COLOURS["floor"]), linewidth=1, linestyle="--")
        names.append((y, label, COLOURS.get(label, COLOURS["floor"])))
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.margins(x=0)
    _name_at_the_right(ax, names)
    return ax


def runs(ax, x, series: dict, xlabel: str, ylabel: str, title: str = ""):
    """Each of `series` {label: [y of every seed]}: a thin line per seed, named where they end."""
    ax = _axes(ax)
    names = []
    for (label, seeds), colour in zip(series.items(), PALETTE.values()):
        for y in seeds:
            ax.plot(x, y, color=colour, linewidth=1, alpha=0.75)
        names.append((sum(y[-1] for y in seeds) / len(seeds), label, colour))
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.margins(x=0)
    _name_at_the_right(ax, names)
    return ax


def _name_at_the_right(ax, names: list) -> None:
    """Writes each (y, label, colour) beside the axis, moved up just enough not to touch another."""
    line_height = 1.25 * plt.rcParams["font.size"]  # points
    points_per_dot = 72 / ax.figure.dpi
    below = float("-inf")
    for y, label, colour in sorted(names, key=lambda name: name[0]):
        wanted = ax.transData.transform((ax.get_xlim()[1], y))[1] * points_per_dot
        below = max(wanted, below + line_height)
        ax.annotate(
            label,
            xy=(1, y),
            xycoords=ax.get_yaxis_transform(),
            xytext=(6, below - wanted),
            textcoords="offset points",
            color=readable(colour),
            va="center",
            annotation_clip=False,
        )


def bars(ax, labels: list, values: list, xlabel: str, title="", form="{:,.2f}", colours=None):
    """One lying bar per label, the first on top, its value written at its end."""
    ax = _axes(ax, height=0.9 + 0.36 * len(labels))
    drawn = ax.barh(range(len(labels)), values, height=0.68, color=colours or PALETTE["blue"])
    ax.bar_label(drawn, [form.format(value) for value in values], padding=4, color=INK)
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.12)
    ax.set(xlabel=xlabel, title=title)
    return ax


def dots(ax, labels: list, series: dict, xlabel: str, title: str = "", form: str = "{:,.2f}"):
    """One line per label, the first on top, with a dot and its value for each of `series`.

    `series` is {name: values}. Set a log scale before. The outer values of a line are written.
    """
    ax = _axes(ax, height=1.1 + 0.34 * len(labels))
    rows = range(len(labels))
    for (name, values), marker in zip(series.items(), "osD^"):
        ax.plot(values, rows, marker, markersize=8, label=name, zorder=3)
    for row, values in enumerate(zip(*series.values())):
        least, most = min(values), max(values)
        ax.plot([least, most], [row, row], color="#BBBBBB", linewidth=2, zorder=2)
        _beside(ax, most, row, form.format(most), 9, "left")
        if len(values) > 1:
            _beside(ax, least, row, form.format(least), -9, "right")
    ax.set_yticks(rows, labels)
    ax.set_ylim(len(labels) - 0.5, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.22)
    ax.set(xlabel=xlabel, title=title)
    if len(series) > 1:
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def _beside(ax, x: float, y: float, text: str, points: float, side: str) -> None:
    ax.annotate(
        text, (x, y), (points, 0), textcoords="offset points", ha=side, va="center", color=INK
    )


# ---------------------------------------------------------------- tokens as text

MARKS = {" ": "·", "\n": "↵", "\t": "→", "\r": "←"}
MONO = "DejaVu Sans Mono"  # comes with matplotlib, so it looks the same everywhere
_mono = font_manager.get_font(font_manager.findfont(MONO))


def visible(piece: str | bytes) -> str:
    """The piece on one line: · for a space, ↵ for a line's end, \\xf0 for a byte of no letter."""
    text = piece.decode("utf-8", "backslashreplace") if isinstance(piece, bytes) else piece
    return "".join(MARKS.get(c) or (c if c.isprintable() else _code_point(c)) for c in text)


def _drawable(piece: str | bytes) -> str:
    """`visible`, with the code point where the font has no such letter."""
    has = _mono.get_char_index
    return "".join(c if has(ord(c)) else _code_point(c) for c in visible(piece))


def _code_point(letter: str) -> str:
    return f"U+{ord(letter):04X}"


def _plain(text: str) -> str:
    """The text as matplotlib draws it literally: it takes what stands between $ for a formula."""
    return text.replace("$", r"\$")


# In a strip one unit is one letter's width, and letters are drawn as shapes: so letters and boxes
# grow and shrink together, whatever the figure around them does.
LETTER = 10  # points
EM = 1 / 0.602  # of this font, in letter widths
LINE, BOX, PADDING, GAP = 2.0 * EM, 1.55 * EM, 0.35, 0.3


def token_strip(ax, pieces: list, title: str = "", marked: list | None = None):
    """The pieces (str or bytes) as coloured boxes, in lines that break where the text's do.

    With `marked`, a bool for each piece, the colour says only which pieces are marked.
    """
    colours = TINTS if marked is None else [MARKED if mark else UNMARKED for mark in marked]
    return _draw_strips(ax, {"": pieces}, title, colours)


def token_strips(ax, strips: dict, title: str = ""):
    """The strips {name: pieces} one below the other, each under its name."""
    return _draw_strips(ax, strips, title, TINTS)


def _draw_strips(ax, strips: dict, title: str, colours: list[str]):
    inches = plt.rcParams["figure.figsize"][0] if ax is None else _width_in_inches(ax)
    per_line = int(inches * 72 * EM / LETTER)
    laid_out, n_lines = _lay_out(strips, per_line)
    if ax is None:
        figure = plt.figure(figsize=(inches, inches * LINE * n_lines / per_line), layout="none")
        ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, per_line), ylim=(-LINE * n_lines, 0), aspect="equal", anchor="NW", title=title)
    ax.axis("off")
    for top, name, boxes in laid_out:
        ax.text(0, -LINE * (top - 0.25), _plain(name), color=INK, va="baseline")
        for i, (text, line, x) in enumerate(boxes):
            colour = colours[i % len(colours)]
            _box(ax, x, -LINE * (top + line + 0.5), _shortened(text, per_line), colour)
    return ax


def _lay_out(strips: dict, per_line: int) -> tuple[list, int]:
    """([(first line, name, [(text, line, x), ...]) of each strip], number of lines)."""
    laid_out, top = [], 0
    for name, pieces in strips.items():
        if not pieces:
            raise ValueError("there are no tokens to draw: give at least one piece")
        texts = [_drawable(piece) for piece in pieces]
        boxes = [(text, *place) for text, place in zip(texts, _places(texts, per_line))]
        top += bool(name)
        laid_out.append((top, name, boxes))
        top += boxes[-1][1] + 1
    return laid_out, top


def _width_in_inches(ax) -> float:
    return ax.get_position().width * ax.figure.get_figwidth()


def _shortened(text: str, per_line: int) -> str:
    room = per_line - 2
    return text if len(text) <= room else text[: room - 1] + "…"


def _places(texts: list[str], per_line: int) -> list[tuple[int, float]]:
    """(line, x) of each box. A line is full, or its text ends with a line's end."""
    line, x, places = 0, 0.0, []
    for text in texts:
        width = len(_shortened(text, per_line)) + 2 * PADDING
        if x + width > per_line:
            line, x = line + 1, 0.0
        places.append((line, x))
        x = x + width + GAP
        if text.endswith(MARKS["\n"]):
            line, x = line + 1, 0.0
    return places


def _box(ax, x: float, middle: float, text: str, colour: str) -> None:
    corner = (x + 0.2, middle - BOX / 2 + 0.2)
    size = (len(text) + 2 * PADDING - 0.4, BOX - 0.4)
    shape = FancyBboxPatch(corner, *size, boxstyle="round,pad=0.2", color=colour, linewidth=0)
    ax.add_patch(shape)
    marks = "".join(letter if letter in MARKS.values() else " " for letter in text)
    letters = "".join(" " if letter in MARKS.values() else letter for letter in text)
    _write(ax, x + PADDING, middle, letters, INK)
    _write(ax, x + PADDING, middle, marks, FAINT_INK)


def _write(ax, x: float, middle: float, text: str, colour: str) -> None:
    if text.strip():
        shape = TextPath((0, 0), _plain(text), size=EM, prop={"family": MONO})
        moved = Affine2D().translate(x, middle - 0.27 * EM) + ax.transData
        ax.add_patch(PathPatch(shape, color=colour, linewidth=0.25, transform=moved))


# ---------------------------------------------------------------- windows and masks


def windows_figure(ax, pieces: list, T: int, stride: int, title: str = "", most: int = 8):
    """The first windows over the pieces, one per line, and below them how often each is an input.

    Inputs are filled; the one token more, the last target, is outlined.
    """
    inputs, targets = windows(torch.arange(len(pieces)), T, stride)  # as places in the text
    left_out = len(inputs) - most
    names = [f"window {line}" for line in range(min(len(inputs), most))]
    names += [f"and {left_out} more"] if left_out > 0 else []
    names += ["times an input"]
    ax = _axes(ax, height=0.9 + 0.27 * len(names))
    for line in range(min(len(inputs), most)):
        for place in inputs[line].tolist():
            _cell(ax, place, line, color=mix(COLOURS["train"], PAPER, 0.4))
        _cell(ax, targets[line, -1].item(), line, fill=False, edgecolor=COLOURS["val"], lw=1.6)
    times = torch.bincount(inputs.flatten(), minlength=len(pieces)).tolist()
    for place, count in enumerate(times):
        ax.text(place, len(names) - 1, count, ha="center", va="center")
    _grid(ax, names, [_plain(_drawable(piece)) for piece in pieces])
    ax.set(xlabel="filled: an input    outlined: the last target", title=title)
    return ax


def mask(ax, may_look, labels: list, title: str = ""):
    """A (T, T) mask of who may look at whom: query down, key across, filled where it may."""
    names = [_plain(_drawable(label)) for label in labels]
    ax = _axes(ax, height=1.2 + 0.27 * len(names))
    for query in range(len(names)):
        for key in range(len(names)):
            colour = mix(COLOURS["train"], PAPER, 0.25) if may_look[query][key] else "#EEEEEE"
            _cell(ax, key, query, color=colour)
    _grid(ax, names, names)
    ax.set(aspect="equal", ylabel="query: who looks", title=title)
    ax.set_xlabel("key: who is looked at")
    ax.xaxis.set_label_position("top")
    return ax


def _cell(ax, column: int, line: int, **look) -> None:
    ax.add_patch(Rectangle((column - 0.46, line - 0.42), 0.92, 0.84, **look))


def _grid(ax, lines: list, columns: list) -> None:
    """Names for the lines at the left, for the columns on top, upright if one of them is long."""
    upright = 90 if max(map(len, columns)) > 3 else 0
    ax.xaxis.tick_top()
    ax.set_xticks(range(len(columns)), columns, family=MONO, rotation=upright)
    ax.set_yticks(range(len(lines)), lines)
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(lines) - 0.5, -0.5))
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
