"""What the widgets show: functions from settings to HTML, which work without any widget.

Names that end in `_html` return a string; the others compute what such a page shows. `widgets` puts
the controls above them. What stands still is in `plots`.
"""

import cmath
import re
from functools import lru_cache
from html import escape

import torch
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
from helpers.generate import Sampling, next_token_probs, stream
from helpers.model import attention_weights
from helpers.plots import (
    COLOURS,
    FAINT_INK,
    INK,
    MARKS,
    PAPER,
    TINTS,
    UNMARKED,
    mix,
    png,
    readable,
    visible,
)
from helpers.preferences import Crowd, Pair, Question
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


def counted(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def page_html(*parts: str) -> str:
    return f'<div style="{PAGE}">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


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
        return page_html(f"No merge yet: {len(letters)} tokens, one per byte.", strip_html(letters))
    pair, count, pieces = steps[k - 1]
    sentence = (
        f"Merge {k} makes one token of the pair that is found most often, "
        f"{counted(count, 'time')}: "
        f"{len(letters)} bytes are now <b>{counted(len(pieces), 'token')}</b>."
    )
    strip = strip_html([_bytes_of(piece) for piece in pieces], marked=_bytes_of("".join(pair)))
    head = ["merge", "left", "right", "new token", "times"]
    lines = [[i + 1, *_merge_cells(*steps[i])] for i in reversed(range(k))]
    return page_html(sentence, strip, table_html(head, lines))


def _merge_cells(pair: tuple[str, str], count: int, _) -> list:
    left, right = map(_bytes_of, pair)
    return [*(_box(FILLED, piece) for piece in (left, right, left + right)), count]


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
    sizes = ", ".join(counted(n, thing) for thing, n in amounts.items())
    sentence = f"<b>{counted(len(ids), 'token')}</b>{per_word} ({sizes})."
    return page_html(sentence, strip_html(pieces, ids))


# ---------------------------------------------------------------- lesson 02


def windows_html(pieces: list, T: int, stride: int, most: int = 12) -> str:
    """The first windows over the pieces, and how often each piece is an input in all of them."""
    inputs, targets = windows(torch.arange(len(pieces)), T, stride)  # as places in the text
    n, shown = len(inputs), min(len(inputs), most)
    sentence = (
        f"<b>{counted(n, 'window')}</b> of {counted(T, 'input')}, {counted(n * T, 'prediction')}, "
        f"from {len(pieces)} tokens. Filled: an input. Outlined: the last target."
    )
    places, lasts = inputs.tolist(), targets[:, -1].tolist()
    lines = [[f"window {i}", *_window_cells(pieces, places[i], lasts[i])] for i in range(shown)]
    more = [[f"and {n - shown} more"]] if n > shown else []
    times = torch.bincount(inputs.flatten(), minlength=len(pieces)).tolist()
    head = ["", *map(letters_html, pieces)]
    return page_html(sentence, table_html(head, [*lines, *more, ["times an input", *times]]))


def _window_cells(pieces: list, inputs: list[int], last: int) -> list[str]:
    cells = [""] * len(pieces)
    for place in inputs:
        cells[place] = _box(FILLED, pieces[place])
    cells[last] = _box(OUTLINED, pieces[last])
    return cells


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
    return page_html(sentence, circles, words)


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


# ---------------------------------------------------------------- lesson 03b


def family_html(a: ModelConfig, b: ModelConfig, T: int = 1024) -> str:
    """Two configs: their blocks side by side, what they cost, and every field that differs."""
    rows, n_choices = difference(a, b), len({name.split(".")[0] for name, *_ in choices(a, b)})
    sentence = f"<b>{counted(len(rows), 'field')} differ</b>; choices among them: {n_choices}."
    words = f"Blocks of {a.name} and {b.name}; the fields that differ stand in the table below."
    # Not pyplot's figure: a widget may draw in a thread of its own, and pyplot is for one.
    figure = Figure(figsize=(6, blocks_height(a, b)))
    picture = png(blocks(figure.subplots(), a, b).figure)
    image = f'<img src="data:image/png;base64,{picture}" alt="{escape(words)}"/>'
    head = [escape(cfg.name) for cfg in (a, b)]
    costs = [[name, *(f"{cost(cfg):,.0f}" for cfg in (a, b))] for name, cost in _costs(T).items()]
    fields = [[name, *(escape(shown(value)) for value in pair)] for name, *pair in rows]
    return page_html(
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
    return page_html(sentence, table)


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


# ---------------------------------------------------------------- lesson 04


def next_tokens_html(model, tokenizer, prompt: str, sampling: Sampling, most: int = 12) -> str:
    """The likeliest next tokens of a prompt: what the model gives them, and `sampling` of that."""
    ids = prompt_ids(model, tokenizer, prompt)
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
    sentence = f"<b>{counted(int((chosen > 0).sum()), 'token')}</b> can come next."
    return page_html(sentence, table_html(["token", "the model", "your choice"], lines))


def prompt_ids(model, tokenizer, prompt: str) -> list[int]:
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
        return page_html(escape(text), "<b>A story, and one that keeps to itself.</b>")
    what = "mixes things up" if grammatical is None else "leaves the grammar"
    at = consistent if grammatical is None else grammatical
    wrong = f'<u style="color:{readable(COLOURS["val"])}">{escape(text[at:])}</u>'
    return page_html(escape(text[:at]) + wrong, f"<b>It {what}</b> where the line begins.")


def where_it_leaves(text: str, language: str = "en", remembers: bool = True) -> int | None:
    """The letter at which the text stops being a story of the world; None if it is a whole one."""
    try:
        World(language, bool(remembers)).parse(text)
    except LeavesTheWorld as problem:
        return problem.at
    return None


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
        return page_html("This budget cannot serve so many tokens with any model: give it more.")
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
    return page_html(sentence, table_html(head, lines))


# ---------------------------------------------------------------- lesson 06

SPEAKERS = {"user": "You", "assistant": "Model"}


def chat_html(said: list[dict], note: str = "") -> str:
    """The turns of a chat, each after the name of who speaks, and a note below them."""
    turns = [f"<b>{SPEAKERS[turn['role']]}:</b> {escape(turn['content'])}" for turn in said]
    return page_html(*turns, f'<span style="color:{FAINT_INK}">{escape(note)}</span>')


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


# ---------------------------------------------------------------- lesson 07

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
    return page_html(note, f"<i>{prompt}</i>", both)


def agreement(pairs: list[Pair], crowd: Crowd) -> str:
    """In how many of these pairs the crowd would most likely have chosen the same."""
    same = sum(crowd.chance(pair.chosen, pair.rejected) > 0.5 for pair in pairs)
    return f"The crowd's taste agrees with yours in {same} of {counted(len(pairs), 'choice')}."


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
    return page_html(sentence, table_html(["texts", "together", "for each", "the limit"], lines))
