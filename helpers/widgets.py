"""Things to move: sliders and text boxes around pure functions from settings to HTML.

Functions whose names end in `_html` return a string and work without any widget; `_live` puts the
controls above them. What stands still is in `plots`. Lessons say what to find out by moving.
"""

import re
from html import escape

import torch
from ipywidgets import HTML, IntSlider, Layout, Textarea, ToggleButtons, VBox

from helpers.data import windows
from helpers.plots import COLOURS, FAINT_INK, INK, MARKS, PAPER, TINTS, mix, visible
from helpers.tokenizer import merge_steps

# ---------------------------------------------------------------- tokens as HTML

PAGE = f"padding:8px; background:{PAPER}; color:{INK}; line-height:1.5; overflow-x:auto;"
MONO = "font-family:'DejaVu Sans Mono',Menlo,Consolas,monospace; font-size:13px;"
BOX = f"display:inline-block; padding:0 3px; border-radius:3px; white-space:pre; {MONO}"
FILLED = f"{BOX} background:{mix(COLOURS['train'], PAPER, 0.6)};"
OUTLINED = f"{BOX} outline:2px solid {COLOURS['val']};"


def letters_html(piece: str | bytes) -> str:
    """The piece's letters, safe inside a page, with fainter marks for spaces and line ends."""
    faint = f'<span style="color:{FAINT_INK}">%s</span>'
    return "".join(faint % c if c in MARKS.values() else escape(c) for c in visible(piece))


def _box(style: str, piece: str | bytes, below: str = "") -> str:
    return f'<span style="{style}">{letters_html(piece)}{below}</span>'


def strip_html(pieces: list, ids: list[int] | None = None, marked=None) -> str:
    """The pieces as coloured boxes, their ids below them; those equal to `marked` are outlined."""
    boxes = []
    for i, piece in enumerate(pieces):
        look = OUTLINED if piece == marked else BOX
        number = f'<br><span style="font-size:11px">{ids[i]}</span>' if ids else ""
        boxes.append(_box(f"{look} margin:2px; background:{TINTS[i % len(TINTS)]}", piece, number))
        if visible(piece).endswith(MARKS["\n"]):
            boxes.append("<br>")
    return f"<div>{''.join(boxes)}</div>"


def table_html(head: list, lines: list[list]) -> str:
    """A table; its cells are HTML already."""
    above, *below = (
        "".join(f'<{tag} style="padding:1px 4px; text-align:left">{cell}</{tag}>' for cell in cells)
        for tag, cells in [("th", head), *(("td", line) for line in lines)]
    )
    return f"<table><tr>{above}</tr>{''.join(f'<tr>{line}</tr>' for line in below)}</table>"


def _many(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _page(*parts: str) -> str:
    return f'<div style="{PAGE}">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


# ---------------------------------------------------------------- controls


def _live(render, **controls) -> VBox:
    """The controls, and below them what render(**their values) says, anew after every change."""
    page = HTML()

    def redraw(_=None):
        page.value = render(**{name: control.value for name, control in controls.items()})

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return VBox([*controls.values(), page])


def _slider(description: str, value: int, least: int, most: int) -> IntSlider:
    return IntSlider(value, least, most, description=description, layout=Layout(width="36em"))


# ---------------------------------------------------------------- lesson 01


def _bytes_of(piece: str) -> bytes:
    """The bytes that `printable` wrote as this piece: so that joined halves of a letter read."""
    return re.sub(
        rb"\\x[0-9a-f]{2}|\\[ntr]",
        lambda found: found[0].decode("unicode_escape").encode("latin-1"),
        piece.encode(),
    )


def merges_html(text: str, steps: list, k: int) -> str:
    """The text after the first k `steps` of `merge_steps`, and those merges, the newest first."""
    letters = [bytes([byte]) for byte in text.encode()]
    if k == 0:
        return _page(f"No merge yet: {len(letters)} tokens, one per byte.", strip_html(letters))
    pair, count, pieces = steps[k - 1]
    sentence = (
        f"Merge {k} makes one token of the pair that is found most often, {_many(count, 'time')}: "
        f"{len(letters)} bytes are now <b>{_many(len(pieces), 'token')}</b>."
    )
    strip = strip_html([_bytes_of(piece) for piece in pieces], marked=_bytes_of("".join(pair)))
    head = ["merge", "left", "right", "new token", "times"]
    lines = [[i + 1, *_merge_cells(*steps[i])] for i in reversed(range(k))]
    return _page(sentence, strip, table_html(head, lines))


def _merge_cells(pair: tuple[str, str], count: int, _) -> list:
    left, right = map(_bytes_of, pair)
    return [*(_box(FILLED, piece) for piece in (left, right, left + right)), count]


def merge_stepper(text: str, n: int) -> VBox:
    """A slider over the first n merges that byte-pair encoding learns from `text`."""
    steps = merge_steps(text, n)
    return _live(lambda k: merges_html(text, steps, k), k=_slider("merges", 0, 0, len(steps)))


def compute_tokens(text: str, encoding) -> tuple[list[bytes], list[int]]:
    """(pieces, ids) of the text, by our Tokenizer or tiktoken's Encoding; specials stay text."""
    encode = getattr(encoding, "encode_ordinary", encoding.encode)
    bytes_of = getattr(encoding, "decode_single_token_bytes", None) or encoding.token_bytes
    ids = encode(text)
    return [bytes_of(token_id) for token_id in ids], ids


def tokens_html(text: str, encoding) -> str:
    """The text's tokens with their ids, and how many there are per word."""
    pieces, ids = compute_tokens(text, encoding)
    n_words, n_bytes = len(text.split()), len(text.encode())
    per_word = f", {len(ids) / n_words:.2f} per word" if n_words else ""
    amounts = {"character": len(text), "byte": n_bytes, "word": n_words}
    sizes = ", ".join(_many(n, thing) for thing, n in amounts.items())
    return _page(f"<b>{_many(len(ids), 'token')}</b>{per_word} ({sizes}).", strip_html(pieces, ids))


def token_explorer(encodings: dict, text: str = "The cat sat. O gato não se sentou.") -> VBox:
    """A text box and a choice among `encodings` {name: tokenizer}; below, the tokens and ids."""
    # Buttons and not a list: JupyterLab takes a list's arrow keys for itself, to change cells.
    names = ToggleButtons(options=list(encodings), description="vocabulary")
    names.style.button_width = "auto"
    return _live(
        lambda text, name: tokens_html(text, encodings[name]),
        text=Textarea(text, description="text", layout=Layout(width="50em")),
        name=names,
    )


# ---------------------------------------------------------------- lesson 02


def windows_html(pieces: list, T: int, stride: int, most: int = 12) -> str:
    """The first windows over the pieces, and how often each piece is an input in all of them."""
    inputs, targets = windows(torch.arange(len(pieces)), T, stride)  # as places in the text
    n, shown = len(inputs), min(len(inputs), most)
    sentence = (
        f"<b>{_many(n, 'window')}</b> of {_many(T, 'input')}, {_many(n * T, 'prediction')}, "
        f"from {len(pieces)} tokens. Filled: an input. Outlined: the last target."
    )
    places, lasts = inputs.tolist(), targets[:, -1].tolist()
    lines = [[f"window {i}", *_window_cells(pieces, places[i], lasts[i])] for i in range(shown)]
    more = [[f"and {n - shown} more"]] if n > shown else []
    times = torch.bincount(inputs.flatten(), minlength=len(pieces)).tolist()
    head = ["", *map(letters_html, pieces)]
    return _page(sentence, table_html(head, [*lines, *more, ["times an input", *times]]))


def _window_cells(pieces: list, inputs: list[int], last: int) -> list[str]:
    cells = [""] * len(pieces)
    for place in inputs:
        cells[place] = _box(FILLED, pieces[place])
    cells[last] = _box(OUTLINED, pieces[last])
    return cells


def window_explorer(pieces: list, T: int = 4, stride: int = 4) -> VBox:
    """Sliders for T and the stride; below, the windows that they cut from `pieces`."""
    most = len(pieces) - 1
    if most < 1:
        raise ValueError("a window needs two tokens, an input and its target: give more pieces")
    return _live(
        lambda T, stride: windows_html(pieces, T, stride),
        T=_slider("T", T, 1, most),
        stride=_slider("stride", stride, 1, most),
    )
