"""Drawings: of tokens, windows and masks, of what is inside a model, of what it writes.

Like those of `plots` each function draws on an Axes (or makes one) and returns it; figures whose
axes are numbers are there.
"""

import textwrap

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from helpers.data import windows
from helpers.families import in_words
from helpers.plots import (
    COLOURS,
    FAINT_INK,
    INK,
    MARKED,
    MARKS,
    MONO,
    PALETTE,
    PAPER,
    TINTS,
    UNMARKED,
    an_axes,
    contrast,
    drawable,
    mix,
    plain,
    readable,
)

# ---------------------------------------------------------------- tokens as text

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
        ax.text(0, -LINE * (top - 0.25), plain(name), color=INK, va="baseline")
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
        texts = [drawable(piece) for piece in pieces]
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
        shape = TextPath((0, 0), plain(text), size=EM, prop={"family": MONO})
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
    ax = an_axes(ax, height=0.9 + 0.27 * len(names))
    for line in range(min(len(inputs), most)):
        for place in inputs[line].tolist():
            _cell(ax, place, line, color=mix(COLOURS["train"], PAPER, 0.4))
        _cell(ax, targets[line, -1].item(), line, fill=False, edgecolor=COLOURS["val"], lw=1.6)
    times = torch.bincount(inputs.flatten(), minlength=len(pieces)).tolist()
    for place, count in enumerate(times):
        ax.text(place, len(names) - 1, count, ha="center", va="center")
    _grid(ax, names, [plain(drawable(piece)) for piece in pieces])
    ax.set(xlabel="filled: an input    outlined: the last target", title=title)
    return ax


def mask(ax, may_look, labels: list, title: str = ""):
    """A (T, T) mask of who may look at whom: query down, key across, filled where it may."""
    names = [plain(drawable(label)) for label in labels]
    ax = an_axes(ax, height=1.2 + 0.27 * len(names))
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
    names = [plain(drawable(label)) for label in labels]
    ax = an_axes(ax, height=1.2 + 0.27 * len(names))
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
    ax = an_axes(ax, height=2.9)
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
    ax = an_axes(ax, height=2.9)
    for i, name in enumerate(names):
        ax.add_patch(Circle((3 * i, 0), 1, fill=False, color="#BBBBBB"))
        ax.text(3 * i, -1.3, plain(name), ha="center", va="center", color=INK)
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
        ax.text(x, line, plain(name), va="center", color=INK)
        ax.text(4.2, line, plain(notes.get(name, "")), va="center", color=FAINT_INK, fontsize=9)
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
    ax = an_axes(ax, height=blocks_height(a, b))
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
        ax.text(x, y + 0.6, plain(cfg.name), color=INK, weight="bold")
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
    ax = an_axes(ax, height=1.9)
    for i, (name, may_look) in enumerate(patterns.items()):
        T = len(may_look)
        look = {"cmap": ListedColormap([UNMARKED, COLOURS["train"]]), "vmin": 0, "vmax": 1}
        left = 1.12 * i
        ax.imshow(torch.as_tensor(may_look).int().numpy(), extent=(left, left + 1, 1, 0), **look)
        ax.text(left, -0.06, plain(name), va="bottom", color=INK, fontsize=9)
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
