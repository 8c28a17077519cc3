"""Figures: each function draws on an Axes (or makes one) and returns it; `show` displays them.

The palette is Okabe and Ito's, which colour-blind readers can tell apart, and the same thing has
the same colour in every lesson. What moves is in `widgets`.
"""

import base64
import textwrap
from html import escape
from io import BytesIO
from itertools import accumulate

import matplotlib.pyplot as plt
import torch
from IPython.display import display
from matplotlib import font_manager
from matplotlib.colors import ListedColormap, to_hex, to_rgb
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from helpers.data import windows
from helpers.families import in_words

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


def png(fig) -> str:
    """The figure as a PNG picture in base64; it is closed, or a notebook would show it again."""
    picture = BytesIO()
    fig.savefig(picture, format="png", bbox_inches="tight", metadata={"Software": None})
    plt.close(fig)
    return base64.b64encode(picture.getvalue()).decode()


def show(fig, description: str) -> None:
    """Displays `fig` as one picture, and `description` for those who (or tests which) see none.

    JupyterLab shows no alternative text of a picture, so the words also stand below it, folded.
    """
    for data, metadata in displays(fig, description):
        display(data, raw=True, metadata=metadata)


def displays(fig, description: str) -> list[tuple[dict, dict]]:
    """What `show` displays, (data, metadata) each: the picture, and its words below it."""
    words = f"<details><summary>This figure in words</summary>{escape(description)}</details>"
    return [
        (
            {"image/png": png(fig), "text/plain": description},
            {"image/png": {"alt": description}},
        ),
        ({"text/html": words, "text/plain": description}, {}),
    ]


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
    pairs = {label: (x, y) for label, y in series.items()}
    return curves(ax, pairs, xlabel, ylabel, title, landmarks)


def curves(ax, series: dict, xlabel: str, ylabel: str, title: str = "", landmarks=None):
    """As `lines`, each of `series` {label: (x, y)} with an x of its own."""
    ax = _axes(ax)
    names = []
    for label, (x, y) in series.items():
        (line,) = ax.plot(x, y, color=COLOURS.get(label))
        names.append((y[-1], label, line.get_color()))
    names += _draw_landmarks(ax, landmarks)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.margins(x=0)
    _name_at_the_right(ax, names)
    return ax


def points(ax, series: dict, xlabel: str, ylabel: str, title: str = "", landmarks=None):
    """Each of `series` {label: [(x, y), ...]}: all points, a line through their mean at each x.

    So several seeds at one x show their spread. Set a log scale before: it gets a tick at each x.
    """
    ax = _axes(ax)
    names = []
    for (label, pairs), colour in zip(series.items(), PALETTE.values()):
        at = {x: [v for u, v in pairs if u == x] for x in sorted({x for x, _ in pairs})}
        means = [sum(ys) / len(ys) for ys in at.values()]
        ax.plot(list(at), means, color=colour, linewidth=1.3)
        ax.plot(*zip(*pairs), "o", color=colour, markersize=4.5, alpha=0.75)
        names.append((means[-1], label, colour))
    if ax.get_xscale() == "log":
        measured = sorted({x for pairs in series.values() for x, _ in pairs})
        ax.set_xticks(measured, [_short(x) for x in measured])
        ax.set_xticks([], minor=True)
    names += _draw_landmarks(ax, landmarks)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    _name_at_the_right(ax, names)
    return ax


def _short(x: float) -> str:
    """A tick's label: 0.03, 16, 131k."""
    return f"{x:g}" if x < 1000 else f"{x / 1000:.3g}k"


def _draw_landmarks(ax, landmarks: dict | None) -> list[tuple]:
    """Draws `landmarks` {label: y} as flat lines; returns (y, label, colour) of each."""
    names = []
    for label, y in (landmarks or {}).items():
        colour = COLOURS.get(label, COLOURS["floor"])
        ax.axhline(y, color=colour, linewidth=1, linestyle="--")
        names.append((y, label, colour))
    return names


def gallery(curves: dict, landmarks: dict, title: str = "", columns: int = 3):
    """Small curves {name: {"train": losses, "val": losses}} on one scale, over the run from 0 to 1.

    The scale ends a little above the highest landmark. Returns the figure.
    """
    rows = -(-len(curves) // columns)
    width = plt.rcParams["figure.figsize"][0]
    figure, grid = plt.subplots(
        rows, columns, sharex=True, sharey=True, squeeze=False, figsize=(1.25 * width, 2.2 * rows)
    )
    for i, (ax, (name, series)) in enumerate(zip(grid.flat, curves.items())):
        for label, y in series.items():
            x = [(k + 1) / len(y) for k in range(len(y))]
            ax.plot(x, y, color=COLOURS[label], linewidth=1.4)
        ax.set_title(name)
        names = _draw_landmarks(ax, landmarks)
        if i % columns == columns - 1:
            _name_at_the_right(ax, names)
    grid[0, 0].set_ylim(0, 1.15 * max(landmarks.values()))
    for ax in grid[:, 0]:
        ax.set_ylabel("nats per token")
    for ax in grid[-1]:
        ax.set_xlabel("share of the run")
    figure.suptitle(title, x=0.01, ha="left", fontsize=plt.rcParams["axes.titlesize"])
    return figure


def runs(ax, x, series: dict, xlabel: str, ylabel: str, title: str = ""):
    """Each of `series` {label: [y of every seed]}: a thin line per seed, named where they end.

    A y shorter than x ends earlier, with a dot; its name stands at the right all the same.
    """
    ax = _axes(ax)
    names = []
    for (label, seeds), colour in zip(series.items(), PALETTE.values()):
        for y in seeds:
            ax.plot(x[: len(y)], y, color=colour, linewidth=1, alpha=0.75)
            if len(y) < len(x):
                ax.plot(x[len(y) - 1], y[-1], "o", color=colour, zorder=3)
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


def losses(ax, records: list, title: str = "", landmarks=None):
    """The losses of a run (train.Record) over the tokens seen, and `landmarks` {label: nats}.

    Each batch's loss is drawn faintly, and in full colour the mean of the last fiftieth of them.
    """
    ax = _axes(ax)
    tokens, raw = [record.tokens for record in records], [record.loss for record in records]
    measured = [record for record in records if record.val_loss is not None]
    ax.plot(tokens, raw, color=mix(COLOURS["train"], PAPER, 0.6), linewidth=0.7)
    curves = {"train": (tokens, trailing_mean(raw, 1 + len(raw) // 50))}
    if measured:
        curves["val"] = [r.tokens for r in measured], [r.val_loss for r in measured]
    for label, (x, y) in curves.items():
        ax.plot(x, y, color=COLOURS[label], marker="o" if label == "val" else "", markersize=4)
    for y in (landmarks or {}).values():
        ax.axhline(y, color=COLOURS["floor"], linewidth=1, linestyle="--")
    ax.set(xlabel="tokens learnt from", ylabel="loss (nats per token)", title=title)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.margins(x=0)
    ends = [(y[-1], label, COLOURS[label]) for label, (_, y) in curves.items()]
    ends += [(y, label, COLOURS["floor"]) for label, y in (landmarks or {}).items()]
    _name_at_the_right(ax, ends)
    return ax


def axes_over(text: str = ""):
    """An Axes to draw on, of a new figure that has these lines of text below it."""
    width, height = plt.rcParams["figure.figsize"]
    room = 0.25 * len(text.splitlines())
    rows, heights = (2, (height, room)) if text else (1, (height,))
    size = (width, height + room)
    axes = plt.subplots(rows, 1, figsize=size, height_ratios=heights, squeeze=False)[1]
    for (below,) in axes[1:]:
        below.text(0, 1, safe_to_draw(text), va="top", color=INK)
        below.axis("off")
    return axes[0, 0]


def trailing_mean(values: list[float], n: int) -> list[float]:
    """For each value the mean of it and the n - 1 before it, or of as many as there are."""
    sums = [0.0, *accumulate(values)]
    starts = [max(0, i + 1 - n) for i in range(len(values))]
    return [(sums[i + 1] - sums[start]) / (i + 1 - start) for i, start in enumerate(starts)]


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
        if form.format(least) != form.format(most):
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


def safe_to_draw(text: str) -> str:
    """Lines of any text, ready to be drawn: □ for each letter that the font has not."""
    has = _mono.get_char_index
    return _plain(
        "".join(c if c == "\n" or (c.isprintable() and has(ord(c))) else "□" for c in text)
    )


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


def attention(ax, weights, labels: list, title: str = ""):
    """Who looks at whom, and how much: (T, T) weights from 0 to 1, query down, key across.

    Up to 8 tokens the weights are written in their cells; a cell without weight stays empty.
    """
    names = [_plain(_drawable(label)) for label in labels]
    ax = _axes(ax, height=1.2 + 0.27 * len(names))
    for query in range(len(names)):
        for key in range(len(names)):
            weight = float(weights[query][key])
            colour = mix(PAPER, COLOURS["train"], weight) if weight else "#EEEEEE"
            _cell(ax, key, query, color=colour)
            if weight and len(names) <= 8:
                ink = max((INK, PAPER), key=lambda ink: contrast(ink, colour))
                ax.text(key, query, f"{weight:.2f}", ha="center", va="center", color=ink)
    _grid(ax, names, names)
    ax.set(ylabel="query: who looks", title=title)
    ax.set_xlabel("key: who is looked at")
    ax.xaxis.set_label_position("top")
    return ax


def _cell(ax, column: int, line: int, **look) -> None:
    ax.add_patch(Rectangle((column - 0.46, line - 0.42), 0.92, 0.84, **look))


def _grid(ax, lines: list, columns: list) -> None:
    """Names for the lines at the left, for the columns on top, upright if there is no room."""
    longest = max(map(len, columns))
    upright = 90 if longest > 3 and longest * len(columns) > 40 else 0
    ax.xaxis.tick_top()
    ax.set_xticks(range(len(columns)), columns, family=MONO, rotation=upright)
    ax.set_yticks(range(len(lines)), lines)
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(lines) - 0.5, -0.5))
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)


# ---------------------------------------------------------------- inside the model


def machine(ax, title: str = ""):
    """The whole decoder: ids, the residual stream from left to right, one block above it, logits.

    What reads the stream and adds to it stands above; the shapes stand below.
    """
    ax = _axes(ax, height=2.9)
    _arrow(ax, (0.2, 0), (17.0, 0), INK)
    stations = {0.5: ("ids", "(B, T)"), 3.0: ("embedding", "(B, T, C)")}
    stations |= {13.0: ("norm", ""), 15.4: ("lm_head", "(B, T, V)")}
    for x, (words, shape) in stations.items():
        _station(ax, x, 0, words)
        ax.text(x, -0.9, shape, ha="center", va="center", color=FAINT_INK)
    for start, words in [(5.6, "attention"), (9.1, "MLP")]:
        _detour(ax, start, words)
    frame = FancyBboxPatch((4.6, -0.5), 7.4, 3.5, boxstyle="round,pad=0.1", fill=False)
    frame.set(edgecolor=FAINT_INK, linestyle="--")
    ax.add_patch(frame)
    ax.text(8.35, 3.35, "one block; N of them follow each other", ha="center", color=FAINT_INK)
    ax.text(8.35, -0.9, "x, the residual stream", ha="center", va="center", color=FAINT_INK)
    ax.text(17.1, 0, "logits", va="center", color=INK)
    ax.set(xlim=(-0.4, 18.6), ylim=(-1.2, 3.9), title=title)
    ax.axis("off")
    return ax


def _detour(ax, start: float, words: str) -> None:
    """Up from the stream through a norm and what reads it, and down to where it is added."""
    end = start + 2.5
    ax.plot([start, start], [0, 2.4], color=INK, linewidth=1.2)
    ax.plot([start, end], [2.4, 2.4], color=INK, linewidth=1.2)
    _arrow(ax, (end, 2.4), (end, 0.3), INK)
    _station(ax, start, 1.1, "norm")
    _station(ax, (start + end) / 2, 2.4, words)
    ax.text(end, 0, "+", ha="center", va="center", color=INK, bbox=ROUND)


ROUND = {"boxstyle": "circle,pad=0.2", "facecolor": PAPER, "edgecolor": INK}
STATION = {"boxstyle": "round,pad=0.35", "facecolor": TINTS[0], "edgecolor": "none"}


def _station(ax, x: float, y: float, words: str) -> None:
    ax.text(x, y, words, ha="center", va="center", color=INK, fontsize=9, bbox=STATION)


def _arrow(ax, start: tuple, end: tuple, colour: str) -> None:
    look = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=look)


def pairs(ax, vectors: dict, names: list[str], title: str = ""):
    """Each of `vectors` {label: (D,)} as arrows, one circle for each pair (x[i], x[i + D/2])."""
    ax = _axes(ax, height=2.9)
    for i, name in enumerate(names):
        ax.add_patch(Circle((3 * i, 0), 1, fill=False, color="#BBBBBB"))
        ax.text(3 * i, -1.3, _plain(name), ha="center", va="center", color=INK)
    for (label, vector), colour in zip(vectors.items(), PALETTE.values()):
        for i in range(len(names)):
            x, y = float(vector[i]), float(vector[i + len(names)])
            _arrow(ax, (3 * i, 0), (3 * i + x, y), colour)
        ax.plot([], [], color=colour, label=label)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.set(xlim=(-1.2, 3 * len(names) - 1.8), ylim=(-1.5, 1.2), aspect="equal", title=title)
    ax.axis("off")
    return ax


def tree(ax, relatives: dict, notes: dict, title: str = ""):
    """Each name below its relative, `relatives` {name: relative}, with its note at the right."""
    roots = [name for name in dict.fromkeys(relatives.values()) if name not in relatives]
    rows = [row for root in roots for row in _descent(root, relatives, 0)]
    if ax is None:
        figure = plt.figure(figsize=(8.6, 0.26 * len(rows)), layout="none")
        ax = figure.add_axes((0, 0, 1, 1))
    places = {name: (0.4 * depth, line) for line, (name, depth) in enumerate(rows)}
    for name, (x, line) in places.items():
        ax.text(x, line, _plain(name), va="center", color=INK)
        ax.text(4.2, line, _plain(notes.get(name, "")), va="center", color=FAINT_INK, fontsize=9)
        if name in relatives:
            trunk, above = places[relatives[name]]
            elbow = [trunk + 0.1] * 2 + [x - 0.06], [above + 0.4, line, line]
            ax.plot(*elbow, color="#999999", linewidth=1)
    ax.set(xlim=(-0.05, 12), ylim=(len(rows) - 0.4, -0.7), title=title)
    ax.axis("off")
    return ax


def _descent(name: str, relatives: dict, depth: int) -> list[tuple[str, int]]:
    """[(name, depth)] of a name and all that descend from it, each above its own descendants."""
    children = [child for child, relative in relatives.items() if relative == name]
    return [(name, depth)] + [row for c in children for row in _descent(c, relatives, depth + 1)]


def blocks_height(a, b) -> float:
    """Inches that `blocks` of these two configs wants."""
    return 1.0 + 0.24 * sum(_heights([in_words(a), in_words(b)]).values())


def _heights(stacks: list[dict]) -> dict[str, int]:
    """Lines of text in each part's box: the same in both stacks, 0 where neither has the part."""
    return {part: max(_n_lines(stack[part]) for stack in stacks) for part in stacks[0]}


def blocks(ax, a, b, title: str = ""):
    """Two configs as stacks of parts, tokens at the bottom; marked is what the other lacks."""
    stacks = [in_words(a), in_words(b)]
    heights = _heights(stacks)
    ax = _axes(ax, height=blocks_height(a, b))
    bottoms, y = {}, 0.0
    for part, height in heights.items():
        y += 0.8 * (part in ("norm before attention", "last norm"))  # the frame passes here
        bottoms[part] = y
        y += height and height + 0.8
    for column, cfg in enumerate((a, b)):
        x, other = 6 * column, stacks[1 - column]
        for part, words in stacks[column].items():
            if _n_lines(words):
                _part(ax, x, bottoms[part], heights[part], words, other[part][0])
        ax.text(x, y + 0.6, _plain(cfg.name), color=INK, weight="bold")
        _frame(ax, x, bottoms["norm before attention"], bottoms["last norm"] - 1.6, cfg.n_layers)
    ax.set(xlim=(-0.1, 11.8), ylim=(-0.5, y + 1.8), title=title)
    ax.axis("off")
    return ax


def _n_lines(words: tuple[list[str], str]) -> int:
    kinds, size = words
    return len(kinds) + bool(size)


def _part(ax, x: float, y: float, height: float, words: tuple, others: list[str]) -> None:
    """A box with one line for each word, the size below; words that are not in `others` marked."""
    kinds, size = words
    look = {"boxstyle": "round,pad=0.25", "color": UNMARKED}
    ax.add_patch(FancyBboxPatch((x + 0.3, y), 4.5, height, **look))
    line = y + (height + _n_lines(words)) / 2 - 0.5
    for word in kinds:
        mark = {"facecolor": MARKED, "edgecolor": INK, "pad": 1.4} if word not in others else None
        ax.text(x + 2.55, line, word, ha="center", va="center", fontsize=9, color=INK, bbox=mark)
        line -= 1
    ax.text(x + 2.55, line, size, ha="center", va="center", fontsize=9, color=FAINT_INK)


def _frame(ax, x: float, bottom: float, top: float, n_layers: int) -> None:
    """Around what is repeated, and how often it is."""
    shape = Rectangle((x, bottom - 0.65), 5.1, top - bottom + 1.3, fill=False)
    shape.set(edgecolor=FAINT_INK, linestyle="--")
    ax.add_patch(shape)
    ax.text(x + 5.2, (bottom + top) / 2, f"x {n_layers}", va="center", color=FAINT_INK)


def masks(ax, patterns: dict, title: str = ""):
    """Each of `patterns` {name: (T, T) mask} as a small picture: query down, key across."""
    ax = _axes(ax, height=1.9)
    for i, (name, may_look) in enumerate(patterns.items()):
        T = len(may_look)
        look = {"cmap": ListedColormap([UNMARKED, COLOURS["train"]]), "vmin": 0, "vmax": 1}
        left = 1.12 * i
        ax.imshow(torch.as_tensor(may_look).int().numpy(), extent=(left, left + 1, 1, 0), **look)
        ax.text(left, -0.06, _plain(name), va="bottom", color=INK, fontsize=9)
        ax.text(left + 0.5, 1.08, f"key 0 to {T - 1}", ha="center", va="top", color=FAINT_INK)
    ax.text(-0.05, 0.5, "query", ha="right", va="center", rotation=90, color=FAINT_INK)
    ax.set(xlim=(-0.15, 1.12 * len(patterns) - 0.1), ylim=(1.25, -0.25), aspect="equal")
    ax.set(title=title)
    ax.axis("off")
    return ax


# ---------------------------------------------------------------- a run, and what it writes

COLUMNS = 72  # letters of a story's line


def storyboard(stories: dict, probs: dict, title: str = ""):
    """Of each moment {label: (text, at)} the text, marked from letter `at` on, and how sure it was.

    probs {label: probabilities} are of the right tokens; they become a histogram beside the text.
    """
    pages = {label: textwrap.wrap(text, COLUMNS) for label, (text, _) in stories.items()}
    heights = [max(4, len(page)) for page in pages.values()]
    width = 1.35 * plt.rcParams["figure.figsize"][0]
    size = (width, 0.45 + 0.27 * sum(heights) + 0.15 * len(pages))
    figure, rows = plt.subplots(
        len(pages), 2, figsize=size, width_ratios=(3, 1), height_ratios=heights, squeeze=False
    )
    for (label, page), (left, right), n_lines in zip(pages.items(), rows, heights):
        _story(left, page, stories[label][1], n_lines)
        left.set_title(label, fontsize=9, pad=3)
        right.hist(probs[label], bins=20, range=(0, 1), color=COLOURS["val"])
        right.set(yticks=[], xlim=(0, 1), xticks=[])
    rows[-1][1].set_xticks([0, 1])
    rows[-1][1].set_xlabel("p of the right token")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return rows[0][0]


def _story(ax, page: list[str], at: int, n_lines: int) -> None:
    """The lines of a page; what stands after its first `at` letters is coloured."""
    ax.set(xlim=(0, COLUMNS), ylim=(-LINE * n_lines, 0), aspect="equal", anchor="NW")
    ax.axis("off")
    for number, line in enumerate(page):
        middle = -LINE * (number + 0.5)
        fine = max(0, min(at, len(line)))
        _write(ax, 0, middle, line[:fine], INK)
        _write(ax, fine, middle, line[fine:], readable(COLOURS["val"]))
        at -= len(line) + 1  # the blank where the line was broken


def roofline(ax, roofs: dict, works: dict, title: str = ""):
    """How fast each machine can be at each work: `roofs` {name: (FLOP/s, bytes/s)}.

    `works` {name: FLOP per byte} stand as vertical lines. Williams and others, Roofline, 2009.
    """
    ax = _axes(ax, height=3.6)
    ax.set(xscale="log", yscale="log", title=title)
    x = [2 ** (i / 4) for i in range(-8, 49)]
    names = []
    for (name, (flops, bandwidth)), colour in zip(roofs.items(), PALETTE.values()):
        y = [min(flops, bandwidth * intensity) for intensity in x]
        ax.plot(x, y, color=colour)
        names.append((y[-1], name, colour))
    bottom = ax.get_ylim()[0] / 20  # room for the works' names
    ax.set_ylim(bottom=bottom)
    for name, intensity in works.items():
        ax.axvline(intensity, color=FAINT_INK, linewidth=1, linestyle="--")
        ax.text(intensity * 1.1, bottom * 1.3, name, rotation=90, va="bottom", color=FAINT_INK)
    ax.set(xlabel="FLOP per byte read or written", ylabel="FLOP per second")
    ax.margins(x=0)
    _name_at_the_right(ax, names)
    return ax
