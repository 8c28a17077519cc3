"""Figures: each function draws on an Axes (or makes one) and returns it; `show` displays them.

The palette is Okabe and Ito's, which colour-blind readers can tell apart, and the same thing has
the same colour in every lesson. What moves is in `widgets`.
"""

import base64
from html import escape
from io import BytesIO
from itertools import accumulate, pairwise

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib import font_manager
from matplotlib.colors import to_hex, to_rgb

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


def an_axes(ax, height: float | None = None):
    """The Axes that was given, or one of a new figure, so many inches high."""
    if ax is not None:
        return ax
    width, default = plt.rcParams["figure.figsize"]
    return plt.subplots(figsize=(width, height or default))[1]


# ---------------------------------------------------------------- text that can be drawn

MARKS = {" ": "·", "\n": "↵", "\t": "→", "\r": "←"}
MONO = "DejaVu Sans Mono"  # comes with matplotlib, so it looks the same everywhere
_mono = font_manager.get_font(font_manager.findfont(MONO))


def visible(piece: str | bytes) -> str:
    """The piece on one line: · for a space, ↵ for a line's end, \\xf0 for a byte of no letter."""
    text = piece.decode("utf-8", "backslashreplace") if isinstance(piece, bytes) else piece
    return "".join(MARKS.get(c) or (c if c.isprintable() else code_point(c)) for c in text)


def drawable(piece: str | bytes) -> str:
    """`visible`, with the code point where the font has no such letter."""
    has = _mono.get_char_index
    return "".join(c if has(ord(c)) else code_point(c) for c in visible(piece))


def code_point(letter: str) -> str:
    """As Unicode writes it: U+00E9."""
    return f"U+{ord(letter):04X}"


def plain(text: str) -> str:
    """The text as matplotlib draws it literally: it takes what stands between $ for a formula."""
    return text.replace("$", r"\$")


def safe_to_draw(text: str) -> str:
    """Lines of any text, ready to be drawn: □ for each letter that the font has not."""
    has = _mono.get_char_index
    return plain(
        "".join(c if c == "\n" or (c.isprintable() and has(ord(c))) else "□" for c in text)
    )


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
    ax = an_axes(ax)
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
    ax = an_axes(ax)
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


def clouds(ax, series: dict, xlabel: str, ylabel: str, title: str = ""):
    """Each of `series` {label: [(x, y), ...]} as dots of one colour, named above the highest.

    Blue is left for a line that is drawn on the same Axes.
    """
    ax = an_axes(ax)
    _, *colours = PALETTE.values()
    for (label, pairs), colour in zip(series.items(), colours):
        ax.plot(*zip(*pairs), "D", color=colour, markersize=6, alpha=0.8)
        highest = max(pairs, key=lambda pair: pair[1])
        near = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
        ax.annotate(label, highest, color=readable(colour), **near)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.margins(y=0.12)
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
    ax = an_axes(ax)
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
    ax = an_axes(ax)
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
    ax.locator_params(axis="x", nbins=5)  # as many as 400,000 leaves room for
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
    ax = an_axes(ax, height=0.9 + 0.36 * len(labels))
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
    ax = an_axes(ax, height=1.1 + 0.34 * len(labels))
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


def ladder(ax, rungs: dict, xlabel: str, title: str = "", form: str = "{:,.0f}"):
    """One lying bar per rung {name: speed}, the first on top, on a log scale.

    At its end stand the speed and its factor over the rung above; a rung that loses is red.
    """
    ax = an_axes(ax, height=0.9 + 0.36 * len(rungs))
    ax.set_xscale("log")
    speeds = list(rungs.values())
    factors = [1.0, *(after / before for before, after in pairwise(speeds))]
    colours = [PALETTE["vermillion" if round(f, 1) < 1 else "blue"] for f in factors]
    bars(ax, list(rungs), speeds, xlabel, title, "", colours)
    words = [f"{form.format(speed)}  (× {f:.1f})" for speed, f in zip(speeds, factors)]
    ax.bar_label(ax.containers[0], [form.format(speeds[0]), *words[1:]], padding=4, color=INK)
    ax.set_xlim(min(speeds) / 2, 6 * max(speeds))  # room for the words
    return ax


def roofline(ax, roofs: dict, works: dict, title: str = "", reached: dict | None = None):
    """How fast each machine can be at each work: `roofs` {name: (FLOP/s, bytes/s)}.

    `works` {name: FLOP per byte} stand as vertical lines, what was measured, `reached` {name: (FLOP
    per byte, FLOP/s)}, as dots. Williams and others, Roofline, 2009.
    """
    ax = an_axes(ax, height=3.6)
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
    for (name, (x, y)), marker in zip((reached or {}).items(), "osD^v<>" * 2):
        ax.plot(x, y, marker, color=INK, markersize=6, label=name, zorder=3)
    if reached:
        ax.legend(frameon=False, loc="lower right")
    ax.set(xlabel="FLOP per byte read or written", ylabel="FLOP per second")
    ax.margins(x=0)
    _name_at_the_right(ax, names)
    return ax
