"""Things to move: sliders, buttons and text boxes around the functions of `pages`.

`_live` puts controls above a page that follows them. Lessons say what to find out by moving.
"""

from copy import deepcopy
from functools import lru_cache
from html import escape
from itertools import count
from textwrap import fill
from time import perf_counter

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

from helpers import pages
from helpers.generate import GREEDY, Sampling, generate
from helpers.plots import axes_over, displays, losses
from helpers.preferences import Clicks, Crowd, Pair, Question, labelled
from helpers.tokenizer import merge_steps
from helpers.train import Recipe, Record

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


def _float_slider(description: str, value: float, least: float, most: float) -> FloatSlider:
    return FloatSlider(
        value=value,
        min=least,
        max=most,
        step=0.05,
        description=description,
        layout=Layout(width="36em"),
    )


# ---------------------------------------------------------------- lesson 01


def merge_stepper(text: str, n: int) -> VBox:
    """A slider over the first n merges that byte-pair encoding learns from `text`."""
    steps = merge_steps(text, n)
    return _live(lambda k: pages.merges_html(text, steps, k), k=_slider("merges", 0, 0, len(steps)))


def token_explorer(encodings: dict, text: str = "The cat sat. O gato não se sentou.") -> VBox:
    """A text box and a choice among `encodings` {name: tokenizer}; below, the tokens and ids."""
    # Buttons and not a list: JupyterLab takes a list's arrow keys for itself, to change cells.
    names = ToggleButtons(options=list(encodings), description="vocabulary")
    names.style.button_width = "auto"
    return _live(
        lambda text, name: pages.tokens_html(text, encodings[name]),
        text=Textarea(text, description="text", layout=Layout(width="50em")),
        name=names,
    )


# ---------------------------------------------------------------- lesson 02


def window_explorer(pieces: list, T: int = 4, stride: int = 4) -> VBox:
    """Sliders for T and the stride; below, the windows that they cut from `pieces`."""
    most = len(pieces) - 1
    if most < 1:
        raise ValueError("a window needs two tokens, an input and its target: give more pieces")
    return _live(
        lambda T, stride: pages.windows_html(pieces, T, stride),
        T=_slider("T", T, 1, most),
        stride=_slider("stride", stride, 1, most),
    )


# ---------------------------------------------------------------- lesson 03


def rotation_explorer(query: list, key: list, frequencies: list, m: int, n: int) -> VBox:
    """Sliders for the positions m of a query and n of a key; below, both turned, and the score."""
    return _live(
        lambda m, n: pages.rotation_html(query, key, frequencies, m, n),
        m=_slider("query at m", m, 0, 64),
        n=_slider("key at n", n, 0, 64),
    )


# ---------------------------------------------------------------- lesson 03b


def family_explorer(catalogue: dict, a: str, b: str) -> VBox:
    """Two choices among `catalogue` {name: config}, first a and b; below, what differs."""
    # Buttons and not a list: JupyterLab takes a list's arrow keys for itself, to change cells.
    pair = [ToggleButtons(options=list(catalogue), value=name) for name in (a, b)]
    for buttons, description in zip(pair, ("this one", "and that")):
        buttons.description, buttons.style.button_width = description, "auto"
    return _live(lambda a, b: pages.family_html(catalogue[a], catalogue[b]), a=pair[0], b=pair[1])


def attention_viewer(model, tokenizer, text: str, block: int = 0, head: int = 0) -> VBox:
    """A text box, and sliders for block and head; below, who looks at whom."""

    @lru_cache(maxsize=8)  # a slider moves, the text stays
    def looks(text: str):
        return pages.compute_looks(model, tokenizer, text)

    def render(text: str, block: int, head: int) -> str:
        pieces, weights = looks(text)
        return pages.attention_html(pieces, weights[block][head], f"block {block}, head {head}")

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
        return pages.next_tokens_html(model, tokenizer, prompt, _sampling(settings))

    for control in controls.values():
        control.style.description_width = "8em"
    button, story, seeds = Button(description="Generate"), HTML(), count()

    def write(_=None):
        settings = {name: control.value for name, control in controls.items()}
        prompt = settings.pop("prompt")
        ids = pages.prompt_ids(model, tokenizer, prompt)
        room = min(max_new, model.cfg.context_length - len(ids))
        new = generate(model, [ids], room, _sampling(settings), [tokenizer.eot], next(seeds))
        story.value = pages.verdict_html(prompt + tokenizer.decode(new[0]))

    button.on_click(write)
    return VBox([*_live(render, **controls).children, button, story])


def _sampling(settings: dict) -> Sampling:
    """The Sampling that sliders say; 0 stands for no limit where None would."""
    off = {name: settings[name] or None for name in ("top_k", "min_p")}
    return Sampling(**(settings | off))


# ---------------------------------------------------------------- lesson 05


def budget_explorer(law, flops_log: float = 24.0, served_log: float = 12.0) -> VBox:
    """Sliders for a budget and the tokens to serve, as powers of ten; below, the best model."""
    return _live(
        lambda flops_log, served_log: pages.budget_html(law, flops_log, served_log),
        flops_log=_float_slider("FLOPs, 10^", flops_log, 18, 27),
        served_log=_float_slider("served, 10^", served_log, 6, 16),
    )


# ---------------------------------------------------------------- lesson 06


def chat(model, tokenizer, sampling: Sampling = GREEDY, remembers: bool = False) -> VBox:
    """A chat with the model: Enter sends, the answer appears word by word.

    Unless it remembers, the model reads the last question only; the student can change that.
    """
    said, seeds, page = [], count(), HTML(pages.chat_html([], "Nothing has been said."))
    wide = Layout(width="50em")
    # Without continuous_update the value changes when Enter is pressed or the box is left.
    text = Text(placeholder="ask, and press Enter", layout=wide, continuous_update=False)
    memory = Checkbox(remembers, description="the model reads the whole chat", indent=False)
    button, anew = Button(description="Send"), Button(description="New chat")

    def send(_=None):
        asked, text.value = text.value.strip(), ""
        how = {"sampling": sampling, "seed": next(seeds), "remembers": memory.value}
        for html in pages.chat_pages(said, asked, model, tokenizer, **how) if asked else ():
            page.value = html

    def forget(_=None):
        said.clear()
        page.value = pages.chat_html([], "Nothing has been said.")

    text.observe(send, names="value")
    button.on_click(send)
    anew.on_click(forget)
    return VBox([page, text, memory, button, anew])


# ---------------------------------------------------------------- lesson 07

WHOSE = ("mine and the crowd's", "only mine", "only the crowd's")


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
            self.page.value = pages.question_html(question, self.progress())
        else:
            mine = self.mine() if self.crowd else []
            compared = pages.agreement(mine, self.crowd) if mine else ""
            self.page.value = pages.page_html(self.progress(), "That was the last pair.", compared)

    def progress(self) -> str:
        """How far you are, how many choices count, and what went wrong."""
        done = f"<b>{len(self.mine())} of {pages.counted(len(self.questions), 'pair')}</b> chosen"
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
        lambda machine, model, bits, B, n_seen: pages.speed_html(
            models[model], machines[machine], bits, 2**B, 2**n_seen
        ),
        **named,
        B=_slider("texts, 2^", 0, 0, 10),
        n_seen=_slider("tokens, 2^", 6, 0, 15),
    )
