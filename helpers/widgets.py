"""Things to move: sliders and text boxes around pure functions from settings to HTML.

Functions whose names end in `_html` return a string and work without any widget; `_live` puts the
controls above them. What stands still is in `plots`. Lessons say what to find out by moving.
"""

import cmath
import re
from copy import deepcopy
from functools import lru_cache
from html import escape
from itertools import count
from textwrap import fill
from time import perf_counter

import torch
from IPython.display import display
from ipywidgets import (
    HTML,
    Button,
    Checkbox,
    FloatSlider,
    HBox,
    IntSlider,
    Layout,
    Text,
    Textarea,
    ToggleButtons,
    VBox,
)
from matplotlib.figure import Figure
from torch import Tensor

from helpers.config import ModelConfig
from helpers.data import windows
from helpers.drawings import blocks, blocks_height
from helpers.families import (
    choices,
    difference,
    flops_per_token,
    kv_bytes,
    kv_bytes_per_token,
    parameters,
    shown,
)
from helpers.generate import GREEDY, Sampling, generate, next_token_probs, stream
from helpers.model import attention_weights
from helpers.plots import (
    COLOURS,
    FAINT_INK,
    INK,
    MARKS,
    PAPER,
    TINTS,
    UNMARKED,
    axes_over,
    displays,
    losses,
    mix,
    png,
    readable,
    visible,
)
from helpers.preferences import Clicks, Crowd, Pair, Question, labelled
from helpers.tokenizer import merge_steps
from helpers.train import Recipe, Record
from helpers.world import LeavesTheWorld, World

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


# ---------------------------------------------------------------- lesson 03


def rotation_html(query: list, key: list, frequencies: list, m: int, n: int) -> str:
    """The query at position m, the key at n: each pair turned in its circle, and their score.

    Pair i is (x[i], x[i + D/2]) and turns by frequencies[i] radians per position.
    """
    turned = {"query": _turned(query, frequencies, m), "key": _turned(key, frequencies, n)}
    score = sum(a * b for a, b in zip(*turned.values()))
    circles = "".join(_circle(turned, i, frequency) for i, frequency in enumerate(frequencies))
    sentence = f"query at {m}, key at {n}, distance {m - n}: <b>score {score:.3f}</b>"
    words = " ".join(
        f'<b style="color:{COLOURS[colour]}">{name}</b>'
        for name, colour in [("query", "train"), ("key", "val")]
    )
    return _page(sentence, circles, words)


def _turned(x: list, frequencies: list, position: int) -> list[float]:
    points = zip(x[: len(frequencies)], x[len(frequencies) :])
    spins = [cmath.exp(1j * position * frequency) for frequency in frequencies]
    turned = [complex(*point) * spin for point, spin in zip(points, spins)]
    return [point.real for point in turned] + [point.imag for point in turned]


def _circle(vectors: dict, i: int, frequency: float) -> str:
    """Pair i of each vector as a line from the middle of a circle to a dot, as SVG."""
    drawn = ""
    for vector, colour in zip(vectors.values(), (COLOURS["train"], COLOURS["val"])):
        x, y = 60 + 50 * vector[i], 60 - 50 * vector[i + len(vector) // 2]
        drawn += f'<line x1="60" y1="60" x2="{x:.1f}" y2="{y:.1f}" stroke="{colour}" '
        drawn += f'stroke-width="3"></line><circle cx="{x:.1f}" cy="{y:.1f}" r="5" '
        drawn += f'fill="{colour}"></circle>'
    ring = '<circle cx="60" cy="60" r="50" fill="none" stroke="#BBBBBB"></circle>'
    picture = f'<svg width="120" height="120" aria-hidden="true">{ring}{drawn}</svg>'
    caption = f"<br>pair {i}: {frequency:g} rad per position"
    return f'<span style="display:inline-block; margin:0 16px">{picture}{caption}</span>'


def rotation_explorer(query: list, key: list, frequencies: list, m: int, n: int) -> VBox:
    """Sliders for the positions m of a query and n of a key; below, both turned, and the score."""
    return _live(
        lambda m, n: rotation_html(query, key, frequencies, m, n),
        m=_slider("query at m", m, 0, 64),
        n=_slider("key at n", n, 0, 64),
    )


# ---------------------------------------------------------------- lesson 03b


def family_html(a: ModelConfig, b: ModelConfig, T: int = 1024) -> str:
    """Two configs: their blocks side by side, what they cost, and every field that differs."""
    rows, n_choices = difference(a, b), len({name.split(".")[0] for name, *_ in choices(a, b)})
    sentence = f"<b>{_many(len(rows), 'field')} differ</b>; choices among them: {n_choices}."
    words = f"Blocks of {a.name} and {b.name}; the fields that differ stand in the table below."
    # Not pyplot's figure: a widget may draw in a thread of its own, and pyplot is for one.
    figure = Figure(figsize=(6, blocks_height(a, b)))
    picture = png(blocks(figure.subplots(), a, b).figure)
    image = f'<img src="data:image/png;base64,{picture}" alt="{escape(words)}"/>'
    head = [escape(cfg.name) for cfg in (a, b)]
    costs = [[name, *(f"{cost(cfg):,.0f}" for cfg in (a, b))] for name, cost in _costs(T).items()]
    fields = [[name, *(escape(shown(value)) for value in pair)] for name, *pair in rows]
    return _page(
        sentence, image, table_html(["cost", *head], costs), table_html(["field", *head], fields)
    )


def _costs(T: int) -> dict:
    return {
        "parameters": parameters,
        "of these, at work on one token": lambda cfg: parameters(cfg, active=True),
        f"FLOPs to train on one token (T = {T:,})": lambda cfg: flops_per_token(cfg, T),
        "bytes of cache for each token": kv_bytes_per_token,
        "bytes of cache, context full": lambda cfg: kv_bytes(cfg, cfg.context_length),
    }


def family_explorer(catalogue: dict, a: str, b: str) -> VBox:
    """Two choices among `catalogue` {name: config}, first a and b; below, what differs."""
    # Buttons and not a list: JupyterLab takes a list's arrow keys for itself, to change cells.
    pair = [ToggleButtons(options=list(catalogue), value=name) for name in (a, b)]
    for buttons, description in zip(pair, ("this one", "and that")):
        buttons.description, buttons.style.button_width = description, "auto"
    return _live(lambda a, b: family_html(catalogue[a], catalogue[b]), a=pair[0], b=pair[1])


def attention_html(pieces: list, weights: Tensor, name: str) -> str:
    """One head's weights (T, T) over the pieces: query down, key across, darker is more."""
    before = weights.diagonal(-1).mean() if len(pieces) > 1 else 0.0
    query, key = divmod(int(weights.tril(-1).argmax()), len(pieces))
    sentence = (
        f"<b>{escape(name)}</b>: {before:.0%} of a look goes to the token before, on average. "
        f"The strongest look back: {letters_html(pieces[query])} at {letters_html(pieces[key])}, "
        f"{weights[query, key]:.0%}."
    )
    names = [letters_html(piece) for piece in pieces]
    above = "".join(f'<td style="{UPRIGHT}">{name}</td>' for name in names)
    lines = [f"<tr><td></td>{above}</tr>"]
    for name, query, row in zip(names, pieces, weights.tolist()):
        squares = "".join(_square(query, key, weight) for key, weight in zip(pieces, row))
        lines.append(f'<tr><td style="padding:0 6px; text-align:right">{name}</td>{squares}</tr>')
    table = f'<table style="{MONO} border-collapse:separate">{"".join(lines)}</table>'
    return _page(sentence, table)


UPRIGHT = "padding:4px 0; writing-mode:vertical-rl; transform:rotate(180deg); white-space:pre"


def _square(query, key, weight: float) -> str:
    """A cell as dark as the weight, which a pointer reads; grey where there is none."""
    words = escape(f"{visible(query)} at {visible(key)}: {weight:.2f}")
    colour = mix(PAPER, COLOURS["train"], weight) if weight else UNMARKED
    look = f"padding:0; min-width:16px; height:16px; background:{colour}"
    return f'<td title="{words}" style="{look}"></td>'


def compute_looks(model, tokenizer, text: str, most: int = 32) -> tuple[list, list[Tensor]]:
    """(pieces, for each block (H, T, T)): who looks at whom in the first `most` tokens of the text.

    It stands after an <|endoftext|>, as in training.
    """
    ids = [tokenizer.eot, *tokenizer.encode(text)][: min(most, model.cfg.context_length)]
    weights = attention_weights(model, torch.tensor([ids]))
    return [tokenizer.token_bytes(i) for i in ids], [block[0] for block in weights]


def attention_viewer(model, tokenizer, text: str, block: int = 0, head: int = 0) -> VBox:
    """A text box, and sliders for block and head; below, who looks at whom."""

    @lru_cache(maxsize=8)  # a slider moves, the text stays
    def looks(text: str):
        return compute_looks(model, tokenizer, text)

    def render(text: str, block: int, head: int) -> str:
        pieces, weights = looks(text)
        return attention_html(pieces, weights[block][head], f"block {block}, head {head}")

    return _live(
        render,
        text=Textarea(text, description="text", layout=Layout(width="50em")),
        block=_slider("block", block, 0, model.cfg.n_layers - 1),
        head=_slider("head", head, 0, model.cfg.n_heads - 1),
    )


# ---------------------------------------------------------------- lesson 04


class LivePlot:
    """A hook for `train`: the losses so far, drawn anew in one place while the model learns.

    The last drawing stays, as `plots.show` would leave it. `sample(model)`, a text, is written
    below the curves after each evaluation. Drawing takes at most a fortieth of the time. With
    `log`, the loss has a logarithmic scale.
    """

    def __init__(
        self, recipe: Recipe, landmarks=None, title="", sample=None, log=False, seconds=2.0
    ):
        self.recipe, self.landmarks, self.title = recipe, landmarks or {}, title
        self.sample, self.log, self.seconds = sample, log, seconds
        self.records, self.handles, self.text, self.due = [], [], "", 0.0

    def __call__(self, record: Record, model) -> None:
        self.records.append(record)
        if self.sample and record.val_loss is not None:
            self.text = self.sample(model)
        if perf_counter() >= self.due or record.step == self.recipe.steps:
            start = perf_counter()
            self._draw()
            self.due = perf_counter() + max(self.seconds, 40 * (perf_counter() - start))

    def _draw(self) -> None:
        ax = axes_over(fill(self.text, 80))
        if self.log:
            ax.set_yscale("log", base=2)
            ax.yaxis.set_major_formatter("{x:g}")
        losses(ax, self.records, self._title(), self.landmarks)
        shown = displays(ax.figure, self.description())
        if not self.handles:
            self.handles = [display(data, raw=True, display_id=True) for data, _ in shown]
        for handle, (data, metadata) in zip(self.handles, shown):
            handle.update(data, raw=True, metadata=metadata)

    def _title(self) -> str:
        """How far it is; at the end, what came out."""
        record, steps = self.records[-1], self.recipe.steps
        if record.step == steps:
            loss = record.loss if record.val_loss is None else record.val_loss
            return self.title or f"{steps:,} steps take the loss to {loss:.2f} nats per token"
        left = (steps - record.step) * record.seconds / record.step
        speed = f"{record.tokens_per_second:,.0f} tokens/s"
        return f"step {record.step:,} of {steps:,}, {speed}, {left:.0f} s left"

    def description(self) -> str:
        """The figure in words: where the curves begin and end, and the landmarks."""
        first, last = self.records[0], self.records[-1]
        measured = [record.val_loss for record in self.records if record.val_loss is not None]
        parts = [f"train from {first.loss:.2f} to {last.loss:.2f}"]
        parts += [f"val from {measured[0]:.2f} to {measured[-1]:.2f}"] if measured else []
        parts += [f"{label} at {y:.2f}" for label, y in self.landmarks.items()]
        return f"Loss in nats per token over {last.tokens:,} tokens: {', '.join(parts)}."


# ---------------------------------------------------------------- lesson 04


def next_tokens_html(model, tokenizer, prompt: str, sampling: Sampling, most: int = 12) -> str:
    """The likeliest next tokens of a prompt: what the model gives them, and `sampling` of that."""
    ids = _prompt_ids(model, tokenizer, prompt)
    seen = torch.zeros(1, model.cfg.vocab_size, dtype=torch.bool)
    seen[0, ids] = True
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[:, -1]  # (1, V)
    plain = logits.softmax(dim=-1)[0]
    chosen = next_token_probs(logits, sampling, seen)[0]
    lines = [
        [letters_html(tokenizer.token_bytes(i)), _bar(plain[i]), _bar(chosen[i])]
        for i in plain.topk(most).indices.tolist()
    ]
    sentence = f"<b>{_many(int((chosen > 0).sum()), 'token')}</b> can come next."
    return _page(sentence, table_html(["token", "the model", "your choice"], lines))


def _prompt_ids(model, tokenizer, prompt: str) -> list[int]:
    """The prompt after <|endoftext|>; of a long one the end, so that as much can follow."""
    return [tokenizer.eot, *tokenizer.encode(prompt)][-(model.cfg.context_length // 2) :]


def _bar(p) -> str:
    p, colour = float(p), mix(COLOURS["train"], PAPER, 0.4)
    bar = f"display:inline-block; height:0.9em; width:{120 * p:.0f}px; background:{colour};"
    cell = "display:inline-block; width:170px"
    return f'<span style="{cell}"><span style="{bar}"></span> {p:.3f}</span>'


def verdict_html(text: str, language: str = "en") -> str:
    """The text, what leaves the world of a language underlined, and what is wrong with it."""
    consistent, grammatical = (where_it_leaves(text, language, remembers) for remembers in (1, 0))
    if consistent is None:
        return _page(escape(text), "<b>A story, and one that keeps to itself.</b>")
    what = "mixes things up" if grammatical is None else "leaves the grammar"
    at = consistent if grammatical is None else grammatical
    wrong = f'<u style="color:{readable(COLOURS["val"])}">{escape(text[at:])}</u>'
    return _page(escape(text[:at]) + wrong, f"<b>It {what}</b> where the line begins.")


def where_it_leaves(text: str, language: str = "en", remembers: bool = True) -> int | None:
    """The letter at which the text stops being a story of the world; None if it is a whole one."""
    try:
        World(language, bool(remembers)).parse(text)
    except LeavesTheWorld as problem:
        return problem.at
    return None


def sampling_lab(model, tokenizer, prompt: str = "", max_new: int = 110) -> VBox:
    """A prompt and the choices of `Sampling`: the next token's chances, and stories to generate."""
    controls = {
        "prompt": Textarea(prompt, description="prompt", layout=Layout(width="50em", height="3em")),
        "temperature": _float_slider("temperature", 1.0, 0.0, 2.0),
        "top_k": _slider("top-k (0: off)", 0, 0, 50),
        "top_p": _float_slider("top-p (1: off)", 1.0, 0.05, 1.0),
        "min_p": _float_slider("min-p (0: off)", 0.0, 0.0, 1.0),
        "repetition_penalty": _float_slider("penalty (1: off)", 1.0, 1.0, 2.0),
    }

    def render(prompt, **settings):
        return next_tokens_html(model, tokenizer, prompt, _sampling(settings))

    for control in controls.values():
        control.style.description_width = "8em"
    button, story, seeds = Button(description="Generate"), HTML(), count()

    def write(_=None):
        settings = {name: control.value for name, control in controls.items()}
        prompt = settings.pop("prompt")
        ids = _prompt_ids(model, tokenizer, prompt)
        room = min(max_new, model.cfg.context_length - len(ids))
        new = generate(model, [ids], room, _sampling(settings), [tokenizer.eot], next(seeds))
        story.value = verdict_html(prompt + tokenizer.decode(new[0]))

    button.on_click(write)
    return VBox([*_live(render, **controls).children, button, story])


def _sampling(settings: dict) -> Sampling:
    """The Sampling that sliders say; 0 stands for no limit where None would."""
    off = {name: settings[name] or None for name in ("top_k", "min_p")}
    return Sampling(**(settings | off))


def _float_slider(description: str, value: float, least: float, most: float) -> FloatSlider:
    return FloatSlider(
        value=value,
        min=least,
        max=most,
        step=0.05,
        description=description,
        layout=Layout(width="36em"),
    )


# ---------------------------------------------------------------- lesson 05


def sizes_for(law, flops: float, served: float) -> list[tuple[float, float, float]]:
    """(N, D, loss) for the sizes that a budget can pay for: flops = 6ND + 2N served.

    `law(N, D)` is the loss in nats per token; D the tokens to train on, `served` those to answer.
    """
    sizes = (10 ** (5 + k / 40) for k in range(40 * 9))
    pairs = [(N, (flops / N - 2 * served) / 6) for N in sizes]
    return [(N, D, law(N, D)) for N, D in pairs if D > N / 1000]


def budget_html(law, flops_log: float, served_log: float) -> str:
    """The best size for a budget of 10^flops_log FLOPs, serving included, and its neighbours."""
    flops, served = 10**flops_log, 10**served_log
    found = sizes_for(law, flops, served)
    if not found:
        return _page("This budget cannot serve so many tokens with any model: give it more.")
    best = min(found, key=lambda choice: choice[2])
    N, D, loss = best
    sentence = (
        f"<b>{N:.2g} parameters, {D:.2g} tokens: {D / N:,.0f} tokens per parameter</b>, "
        f"loss {loss:.3f}. Serving takes {2 * N * served / flops:.0%} of the compute."
    )
    at = found.index(best)
    near = [found[i] for i in range(at - 48, at + 49, 12) if 0 <= i < len(found)]
    lines = [
        [f"{n:.2g}", f"{d:.2g}", f"{d / n:,.1f}", f"{y:.3f}", f"{y - loss:+.3f}"]
        for n, d, y in near
    ]
    head = ["parameters", "tokens", "tokens per parameter", "loss", "over the best"]
    return _page(sentence, table_html(head, lines))


def budget_explorer(law, flops_log: float = 24.0, served_log: float = 12.0) -> VBox:
    """Sliders for a budget and the tokens to serve, as powers of ten; below, the best model."""
    return _live(
        lambda flops_log, served_log: budget_html(law, flops_log, served_log),
        flops_log=_float_slider("FLOPs, 10^", flops_log, 18, 27),
        served_log=_float_slider("served, 10^", served_log, 6, 16),
    )


# ---------------------------------------------------------------- lesson 06

SPEAKERS = {"user": "You", "assistant": "Model"}


def chat_html(said: list[dict], note: str = "") -> str:
    """The turns of a chat, each after the name of who speaks, and a note below them."""
    turns = [f"<b>{SPEAKERS[turn['role']]}:</b> {escape(turn['content'])}" for turn in said]
    return _page(*turns, f'<span style="color:{FAINT_INK}">{escape(note)}</span>')


def fitting(said: list[dict], tokenizer, room: int) -> list[dict]:
    """The latest turns that take at most `room` tokens, whole: a question goes with its answer.

    ValueError if the last question alone is longer.
    """
    while len(tokenizer.chat_prompt(said)) > room:
        if len(said) == 1:
            raise ValueError(f"This alone has more than {room} tokens: say it in fewer words.")
        said = said[2:]
    return said


def chat_pages(said: list, text: str, model, tokenizer, sampling, seed, most=120, remembers=True):
    """Puts the question `text` and its answer into `said`; yields the page after each token.

    The model reads the turns that leave room for `most` tokens, or the question alone.
    """
    room = model.cfg.context_length - most
    said.append({"role": "user", "content": text})
    try:
        kept = [*fitting(said if remembers else said[-1:], tokenizer, room)]
    except ValueError as problem:
        said.pop()
        yield chat_html(said, str(problem))
        return
    lost = len(said) - len(kept) if remembers else 0
    note = f"Forgotten: the first {lost} turns. The model reads {room} tokens." if lost else ""
    said.append({"role": "assistant", "content": ""})
    ids, stop = [], [tokenizer.end]
    for token in stream(model, tokenizer.chat_prompt(kept), most, sampling, stop, seed):
        ids.append(token)
        said[-1]["content"] = tokenizer.decode(ids)
        yield chat_html(said, note)
    yield chat_html(said, note if len(ids) < most else f"{note} Cut off after {most} tokens.")


def chat(model, tokenizer, sampling: Sampling = GREEDY, remembers: bool = False) -> VBox:
    """A chat with the model: Enter sends, the answer appears word by word.

    Unless it remembers, the model reads the last question only; the student can change that.
    """
    said, seeds, page = [], count(), HTML(chat_html([], "Nothing has been said."))
    wide = Layout(width="50em")
    # Without continuous_update the value changes when Enter is pressed or the box is left.
    text = Text(placeholder="ask, and press Enter", layout=wide, continuous_update=False)
    memory = Checkbox(remembers, description="the model reads the whole chat", indent=False)
    button, anew = Button(description="Send"), Button(description="New chat")

    def send(_=None):
        asked, text.value = text.value.strip(), ""
        how = {"sampling": sampling, "seed": next(seeds), "remembers": memory.value}
        for html in chat_pages(said, asked, model, tokenizer, **how) if asked else ():
            page.value = html

    def forget(_=None):
        said.clear()
        page.value = chat_html([], "Nothing has been said.")

    text.observe(send, names="value")
    button.on_click(send)
    anew.on_click(forget)
    return VBox([page, text, memory, button, anew])


# ---------------------------------------------------------------- lesson 07

WHOSE = ("mine and the crowd's", "only mine", "only the crowd's")
COLUMN = "flex:1 1 18em; max-width:32em; padding:0 12px;"


def question_html(question: Question, note: str = "") -> str:
    """A prompt, and the two answers to it side by side: one below the other if there is no room."""
    prompt, *answers = map(escape, question)
    columns = "".join(
        f'<div style="{COLUMN} border-left:3px solid {COLOURS[colour]}"><b>{side}</b><br>{answer}'
        "</div>"
        for side, colour, answer in zip(("left", "right"), ("train", "val"), answers)
    )
    both = f'<div style="display:flex; flex-wrap:wrap; gap:12px">{columns}</div>'
    return _page(note, f"<i>{prompt}</i>", both)


def agreement(pairs: list[Pair], crowd: Crowd) -> str:
    """In how many of these pairs the crowd would most likely have chosen the same."""
    same = sum(crowd.chance(pair.chosen, pair.rejected) > 0.5 for pair in pairs)
    return f"The crowd's taste agrees with yours in {same} of {_many(len(pairs), 'choice')}."


class PreferenceClicks(VBox):
    """Pairs of answers to choose from; each choice is in the file of `clicks` before the next pair.

    `pairs()` are the choices made so far: yours, the crowd's or both, as the buttons below say.
    """

    def __init__(self, questions: list[Question], clicks: Clicks, crowd: Crowd | None = None):
        super().__init__()
        self.questions = [(prompt, a, b) for prompt, a, b in questions if a != b]
        if not self.questions:
            raise ValueError("there is nothing to compare: give prompts with two answers each")
        self.clicks, self.crowd, self.skipped, self.problem = clicks, crowd, set(), ""
        self.page, self.whose = HTML(), ToggleButtons(options=WHOSE, description="choices")
        self.whose.style.button_width = "auto"
        acts = {"left is better": self.choose_left, "right is better": self.choose_right}
        self.buttons = [Button(description=words) for words in (*acts, "skip")]
        for button, act in zip(self.buttons, (*acts.values(), self.skip)):
            button.on_click(act)
        self.whose.observe(self.redraw, names="value")
        self.children = [self.page, HBox(self.buttons), *([self.whose] if crowd else [])]
        self.redraw()

    def mine(self) -> list[Pair]:
        """Your choices among these questions, in an earlier session too."""
        return labelled(self.questions, self.clicks.read()[0])

    def pairs(self) -> list[Pair]:
        """The choices that count; the crowd's are the same each time."""
        mine = self.clicks.read()[0] if self.whose.value != WHOSE[2] else []
        crowd = deepcopy(self.crowd) if self.whose.value != WHOSE[1] else None
        return labelled(self.questions, mine, crowd)

    def current(self) -> Question | None:
        """The first question that was neither answered nor skipped."""
        saved = self.clicks.read()[0]
        left = (q for q in self.questions if q not in self.skipped)
        return next((question for question in left if not labelled([question], saved)), None)

    def choose_left(self, _=None) -> None:
        if question := self.current():
            self._save(Pair(*question))

    def choose_right(self, _=None) -> None:
        if question := self.current():
            prompt, left, right = question
            self._save(Pair(prompt, right, left))

    def skip(self, _=None) -> None:
        self.problem = ""
        self.skipped |= {self.current()} - {None}
        self.redraw()

    def _save(self, pair: Pair) -> None:
        """A choice that cannot be saved is not made: the pair stays, and the page says why."""
        self.problem = ""
        try:
            self.clicks.add(pair)
        except OSError as problem:
            self.problem = str(problem)
        self.redraw()

    def redraw(self, _=None) -> None:
        question = self.current()
        for button in self.buttons:
            button.disabled = question is None
        if question:
            self.page.value = question_html(question, self.progress())
        else:
            compared = agreement(self.mine(), self.crowd) if self.crowd and self.mine() else ""
            self.page.value = _page(self.progress(), "That was the last pair.", compared)

    def progress(self) -> str:
        """How far you are, how many choices count, and what went wrong."""
        done = f"<b>{len(self.mine())} of {_many(len(self.questions), 'pair')}</b> chosen"
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        counting = f" Choices that count: {len(self.pairs())}." if self.crowd else ""
        damaged = self.clicks.damaged
        lost = f" Damaged lines in your file, skipped: {damaged}." if damaged else ""
        wrong = f"<br><b>{escape(self.problem)}</b>" if self.problem else ""
        return f"{done}{skipped}.{counting}{lost}{wrong}"


def preference_clicks(
    questions: list[Question], clicks: Clicks, crowd: Crowd | None = None
) -> PreferenceClicks:
    """Two answers side by side and buttons to say which is better; its `pairs()` are the data."""
    return PreferenceClicks(questions, clicks, crowd)


# ---------------------------------------------------------------- lesson 09


def step_bytes(cfg: ModelConfig, bits: int, B: int, n_seen: int) -> tuple[float, float]:
    """Bytes of weights and of caches that a step reads, B texts of n_seen tokens being written.

    Weights have so many bits, what is cached has 16 at least.
    """
    cached = kv_bytes(cfg, n_seen, bytes_per_number=max(bits, 16) // 8)
    return parameters(cfg) * bits / 8, B * cached


@lru_cache
def _flops_to_write(cfg: ModelConfig, n_seen: int) -> float:
    return flops_per_token(cfg, n_seen, training=False)


def most_tokens(cfg: ModelConfig, machine: tuple, bits: int, B: int, n_seen: int) -> tuple:
    """(tokens per second of all B texts at most, which limit that is) of a dense model.

    machine: its (FLOP per second, bytes per second).
    """
    by_processor = machine[0] / _flops_to_write(cfg, n_seen)
    by_memory = B * machine[1] / sum(step_bytes(cfg, bits, B, n_seen))
    return min((by_memory, "memory"), (by_processor, "processor"))


def speed_html(cfg: ModelConfig, machine: tuple, bits: int, B: int, n_seen: int) -> str:
    """How fast texts can be written at most, and the same for other numbers of texts at once."""
    weights, cached = step_bytes(cfg, bits, B, n_seen)
    speed, limit = most_tokens(cfg, machine, bits, B, n_seen)
    sentence = (
        f"<b>At most {speed:,.0f} tokens per second, {speed / B:,.1f} for each text</b>: the limit "
        f"is the {limit}. A step reads {weights / 1e9:,.2f} GB of weights and {cached / 1e9:,.2f} "
        "GB of caches."
    )
    lines = []
    for n in (1, 4, 16, 64, 256, 1024):
        together, limit = most_tokens(cfg, machine, bits, n, n_seen)
        lines.append([str(n), f"{together:,.0f}", f"{together / n:,.1f}", limit])
    return _page(sentence, table_html(["texts", "together", "for each", "the limit"], lines))


def speed_explorer(machines: dict, models: dict, bits: int = 32) -> VBox:
    """How fast the machines {name: (FLOP/s, bytes/s)} write at most, and what the limit is.

    `models` is {name: config}, of dense ones. The first machine and the first model are chosen.
    """
    machine, model = (ToggleButtons(options=list(names)) for names in (machines, models))
    widths = ToggleButtons(options=[32, 16, 8, 4], value=bits)
    named = {"machine": machine, "model": model, "bits": widths}
    for description, buttons in named.items():
        buttons.description, buttons.style.button_width = description, "auto"
    return _live(
        lambda machine, model, bits, B, n_seen: speed_html(
            models[model], machines[machine], bits, 2**B, 2**n_seen
        ),
        **named,
        B=_slider("texts, 2^", 0, 0, 10),
        n_seen=_slider("tokens, 2^", 6, 0, 15),
    )
