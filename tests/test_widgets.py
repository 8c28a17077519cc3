"""python -m pytest tests/test_widgets.py -p no:nbval -o addopts="" """

import math
import re
from html import escape
from html.parser import HTMLParser

import matplotlib
import pytest
import tiktoken
import torch
from ipywidgets import HTML, Widget

from helpers import families, pages, widgets
from helpers.families import CATALOGUE, GPT2_124M, LLAMA3_8B, tiny
from helpers.generate import GREEDY, Sampling
from helpers.model import Decoder, attention_weights, cos_sin, rotate
from helpers.pages import (
    attention_html,
    compute_looks,
    compute_tokens,
    family_html,
    letters_html,
    merges_html,
    next_tokens_html,
    question_html,
    rotation_html,
    strip_html,
    tokens_html,
    verdict_html,
    where_it_leaves,
    windows_html,
)
from helpers.plots import contrast
from helpers.preferences import Clicks, Crowd, Pair
from helpers.tokenizer import Tokenizer, merge_steps
from helpers.train import Recipe, Record
from helpers.widgets import (
    LivePlot,
    attention_viewer,
    family_explorer,
    merge_stepper,
    preference_clicks,
    rotation_explorer,
    sampling_lab,
    token_explorer,
    window_explorer,
)
from helpers.world import World

LOW = "low low lower"
BYTES = Tokenizer([])  # no merges: every byte is a token
FORGED = '<script>alert("x")</script> & <|endoftext|>'


class Reader(HTMLParser):
    """What a page says, cell by cell, and that every tag that opens closes."""

    def __init__(self, html):
        super().__init__()
        self.open, self.lines, self.tags, self.words = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.lines[-1][-1] += data

    @property
    def text(self):
        return "".join(self.words)


def page_of(widget):
    return Reader(next(child for child in widget.children if isinstance(child, HTML)).value)


def control(widget, description):
    return next(c for c in widget.children if getattr(c, "description", "") == description)


# ---------------------------------------------------------------- tokens as HTML


@pytest.mark.parametrize("piece", [FORGED, FORGED.encode(), "</span>", '" onclick="', "&lt;"])
def test_text_of_a_user_stays_text(piece):
    reader = Reader(letters_html(piece))
    text = piece.decode() if isinstance(piece, bytes) else piece
    assert reader.text == text.replace(" ", "·")
    assert set(reader.tags) <= {"span"}


def test_a_strip_has_a_box_and_an_id_for_each_token_and_breaks_where_lines_end():
    html = strip_html([" um", b"\n", b"\xc3"], ids=[300, 10, 195])
    assert Reader(html).text == "·um300↵10\\xc3195"
    assert html.count("display:inline-block") == 3
    assert Reader(html).tags.count("br") == 3 + 1  # one above each id, one after the line's end


def test_a_strip_outlines_the_marked_pieces_only():
    assert strip_html(["a", "b", "a"], marked="a").count("outline") == 2
    assert "outline" not in strip_html(["a", "b"])


@pytest.mark.parametrize("html", [strip_html([*"abcd"]), windows_html([*"abc"], 2, 1)])
def test_letters_can_be_read_on_their_background(html):
    backgrounds = set(re.findall(r"background:(#\w{6})", html))
    assert backgrounds and all(contrast("#1A1A1A", colour) >= 4.5 for colour in backgrounds)


# ---------------------------------------------------------------- lesson 01


def test_before_the_first_merge_each_byte_is_a_token():
    reader = Reader(merges_html("ção", merge_steps("ção", 1), 0))
    assert "5 tokens, one per byte" in reader.text
    assert "\\xc3\\xa7\\xc3\\xa3o" in reader.text


def test_merges_worked_by_hand():
    """low low lower: l+o 3 times, lo+w 3 times: 13 bytes, then 10 tokens, then 7."""
    reader = Reader(merges_html(LOW, merge_steps(LOW, 2), 2))
    assert "Merge 2" in reader.text and "3 times: 13 bytes are now 7 tokens" in reader.text
    assert reader.lines[1:] == [["2", "lo", "w", "low", "3"], ["1", "l", "o", "lo", "3"]]


def test_two_halves_of_a_letter_become_the_letter_and_are_outlined():
    html = merges_html("éé é", merge_steps("éé é", 1), 1)
    assert Reader(html).lines[1] == ["1", "\\xc3", "\\xa9", "é", "3"]
    assert html.count("outline") == 3


def test_a_line_s_end_looks_the_same_before_and_after_merges():
    steps = merge_steps("ab\nab", 1)
    assert all("↵" in Reader(merges_html("ab\nab", steps, k)).text for k in (0, 1))


def test_moving_the_slider_shows_the_text_after_as_many_merges():
    widget = merge_stepper(LOW, 2)
    slider = control(widget, "merges")
    assert "No merge yet: 13 tokens" in page_of(widget).text
    slider.value = 2
    assert "7 tokens" in page_of(widget).text
    assert (slider.min, slider.max) == (0, 2)


def test_the_slider_ends_where_no_pair_is_left():
    assert control(merge_stepper("abab", 50), "merges").max == 2  # a+b, ab+ab


def test_ours_and_tiktoken_s_encodings_are_both_understood():
    gpt = tiktoken.Encoding(
        "tiny", pat_str=".", mergeable_ranks={b"a": 0, b"b": 1}, special_tokens={"<|x|>": 2}
    )
    assert compute_tokens("aba", gpt) == ([b"a", b"b", b"a"], [0, 1, 0])
    assert compute_tokens("é", BYTES) == ([b"\xc3", b"\xa9"], [195, 169])


def test_a_special_token_that_a_user_types_stays_text():
    eot = tiktoken.Encoding(
        "bytes",
        pat_str="(?s).",
        mergeable_ranks={bytes([b]): b for b in range(256)},
        special_tokens={"<|endoftext|>": 256},
    )
    for encoding in (eot, BYTES):
        assert compute_tokens("<|endoftext|>", encoding)[1] == [*b"<|endoftext|>"]


def test_token_counts_worked_by_hand():
    text = Reader(tokens_html("pão é", BYTES)).text
    assert text.startswith("7 tokens, 3.50 per word (5 characters, 7 bytes, 2 words).")


def test_no_text_is_no_tokens():
    assert Reader(tokens_html("", BYTES)).text == "0 tokens (0 characters, 0 bytes, 0 words)."


def test_text_and_vocabulary_both_redraw_the_tokens():
    widget = token_explorer({"bytes": BYTES, "ours": Tokenizer.train("low " * 9, 270)}, "low")
    assert page_of(widget).text.startswith("3 tokens")
    control(widget, "vocabulary").value = "ours"
    assert page_of(widget).text.startswith("1 token,")
    control(widget, "text").value = FORGED
    assert "script" not in page_of(widget).tags


# ---------------------------------------------------------------- lesson 02


def test_windows_worked_by_hand():
    """abcde, T = 2, stride 2: ab and cd; the last target is e."""
    reader = Reader(windows_html([*"abcde"], T=2, stride=2))
    assert reader.text.startswith("2 windows of 2 inputs, 4 predictions, from 5 tokens.")
    assert windows_html([*"abcde"], T=2, stride=2).count("outline:") == 2
    assert reader.lines == [
        ["", "a", "b", "c", "d", "e"],
        ["window 0", "a", "b", "c", "", ""],
        ["window 1", "", "", "c", "d", "e"],
        ["times an input", "1", "1", "1", "1", "0"],
    ]


def test_many_windows_are_counted_though_only_some_are_shown():
    reader = Reader(windows_html([*"abcdefgh"], T=2, stride=1, most=2))
    assert reader.text.startswith("6 windows")
    assert [line[0] for line in reader.lines[3:]] == ["and 4 more", "times an input"]
    assert reader.lines[-1][1:] == ["1", "2", "2", "2", "2", "2", "1", "0"]


def test_every_place_of_the_sliders_gives_a_window():
    widget = window_explorer([*"abcde"], T=9, stride=9)
    T, stride = control(widget, "T"), control(widget, "stride")
    assert (T.min, T.max, stride.min, stride.max) == (1, 4, 1, 4)
    T.value, stride.value = 2, 1
    assert page_of(widget).text.startswith("3 windows of 2 inputs")
    T.value, stride.value = 4, 4
    assert page_of(widget).text.startswith("1 window of 4 inputs")


def test_one_token_is_too_few_for_a_window():
    with pytest.raises(ValueError, match="a window needs two tokens"):
        window_explorer(["a"])


# ---------------------------------------------------------------- all


@pytest.mark.parametrize(
    "make",
    [
        lambda: merge_stepper(LOW, 2),
        lambda: token_explorer({"bytes": BYTES}),
        lambda: window_explorer([*"abcdef"]),
        lambda: family_explorer(CATALOGUE, "GPT-2 124M", "Llama 3 8B"),
        lambda: attention_viewer(*storyteller(), "ab"),
        lambda: sampling_lab(*storyteller(), "ab"),
    ],
)
def test_a_widget_is_returned_and_every_control_says_what_it_is(make):
    widget = make()
    assert isinstance(widget, Widget)
    assert all(child.description for child in widget.children if not isinstance(child, HTML))


class Screen:
    """What a notebook shows: `display` makes places, and a place's content can be replaced."""

    def __init__(self, monkeypatch):
        self.places, self.n_drawn = [], 0
        monkeypatch.setattr(widgets, "display", self.display)
        matplotlib.use("agg")

    def display(self, data, raw, display_id):
        self.places.append(None)
        return Place(self, len(self.places) - 1)


class Place:
    def __init__(self, screen, number):
        self.screen, self.number = screen, number

    def update(self, data, raw, metadata):
        self.screen.places[self.number] = data, metadata
        self.screen.n_drawn += self.number == 0


def watched(screen, steps=5, **more):
    """A live plot that has seen a run in which the loss is halved at each step."""
    plot = LivePlot(Recipe(steps=steps), {"floor": 0.25}, **more)
    for step in range(1, steps + 1):
        val_loss = 9.0 / step if step % 2 else None
        plot(Record(step, 10 * step, 8 / 2**step, val_loss, 0.1, 1.0, 50.0, 4.0 * step), "model")
    return plot


def test_a_live_plot_stays_in_its_place_and_ends_as_a_described_figure(monkeypatch):
    screen = Screen(monkeypatch)
    watched(screen, seconds=0)
    (picture, alt), (words, _) = screen.places
    sentence = "train from 4.00 to 0.25, val from 9.00 to 1.80, floor at 0.25."
    assert picture["text/plain"] == words["text/plain"] == alt["image/png"]["alt"]
    assert words["text/plain"] == f"Loss in nats per token over 50 tokens: {sentence}"
    assert words["text/html"].startswith("<details>")
    assert matplotlib.pyplot.get_fignums() == []


def test_a_live_plot_draws_the_first_and_the_last_step_and_seldom_in_between(monkeypatch):
    screen = Screen(monkeypatch)
    watched(screen, steps=50, seconds=1000)
    assert screen.n_drawn == 2


def test_the_title_of_a_live_plot_says_how_far_it_is_and_then_what_came_out():
    plot = LivePlot(Recipe(steps=5))
    plot.records = [Record(2, 20, 4.0, None, 0.1, 1.0, 1234.5, 8.0)]
    assert plot._title() == "step 2 of 5, 1,234 tokens/s, 12 s left"
    plot.records.append(Record(5, 20, 4.0, 3.456, 0.1, 1.0, 1234.5, 8.0))
    assert plot._title() == "5 steps take the loss to 3.46 nats per token"
    plot.title = "mine"
    assert plot._title() == "mine"


def test_a_live_plot_asks_for_a_sample_at_each_evaluation(monkeypatch):
    asked = []
    plot = watched(Screen(monkeypatch), sample=lambda model: asked.append(model) or "a $ and \0")
    assert asked == ["model"] * 3
    assert plot.text == "a $ and \0"


def test_a_live_plot_has_the_scale_that_is_asked_for(monkeypatch):
    scales = []
    monkeypatch.setattr(widgets, "losses", lambda ax, *rest: scales.append(ax.get_yscale()) or ax)
    watched(Screen(monkeypatch), log=True)
    watched(Screen(monkeypatch))
    assert {*scales[: len(scales) // 2]} == {"log"} and scales[-1] == "linear"


# ---------------------------------------------------------------- lesson 03: rotation


QUERY, KEY, SPEEDS = [0.9, 0.7, 0.2, 0.4], [0.8, 0.9, -0.4, -0.1], [1.0, 0.1]


def score_of(m, n):
    return re.search(r"score (-?[0-9.]+)", Reader(rotation_html(QUERY, KEY, SPEEDS, m, n)).text)[1]


def test_unturned_vectors_score_their_product():
    """0.9 · 0.8 + 0.7 · 0.9 - 0.2 · 0.4 - 0.4 · 0.1 = 1.23"""
    assert score_of(0, 0) == "1.230"


def test_the_score_depends_on_the_distance_alone_and_is_the_model_s():
    turns = torch.tensor(SPEEDS) * torch.tensor([[5.0], [2.0]])  # (2, D/2)
    turned = rotate(torch.tensor([QUERY, KEY]), *cos_sin(turns))
    assert score_of(5, 2) == score_of(40, 37) == f"{turned[0] @ turned[1]:.3f}"
    assert score_of(5, 2) != score_of(2, 5)


def test_a_quarter_turn_is_drawn_as_one():
    """(1, 0) turned by a quarter points up: from the middle, (60, 60), to (60, 10)."""
    html = rotation_html([1, 0], [1, 0], [math.pi / 2], 1, 0)
    ends = re.findall(r'x2="([0-9.]+)" y2="([0-9.]+)"', html)
    assert ends == [("60.0", "10.0"), ("110.0", "60.0")]


def test_rotation_explorer_turns_both_by_their_sliders():
    explorer = rotation_explorer(QUERY, KEY, SPEEDS, m=5, n=2)
    control(explorer, "query at m").value = 7
    control(explorer, "key at n").value = 3
    assert "query at 7, key at 3, distance 4" in page_of(explorer).text


# ---------------------------------------------------------------- lesson 03b


def storyteller():
    """A decoder that knows nothing, and a tokenizer of bytes for it."""
    torch.manual_seed(0)
    return Decoder(tiny(GPT2_124M, vocab_size=BYTES.vocab_size, context_length=40)), BYTES


def test_two_families_side_by_side_worked_by_hand():
    reader = Reader(family_html(GPT2_124M, LLAMA3_8B))
    assert reader.text.startswith("14 fields differ; choices among them: 7.")
    lines = {line[0]: line[1:] for line in reader.lines}
    assert lines["parameters"] == ["124,439,808", "8,030,261,248"]
    assert lines["bytes of cache for each token"] == ["36,864", "131,072"]
    assert lines["bytes of cache, context full"] == [f"{36_864 * 1024:,}", f"{131_072 * 8192:,}"]
    assert lines["rope"] == ["None", "Rope(theta=5e+05)"] and lines["n_kv_heads"] == ["12", "8"]
    assert reader.tags.count("img") == 1


def test_a_family_does_not_differ_from_itself():
    reader = Reader(family_html(LLAMA3_8B, LLAMA3_8B))
    assert reader.text.startswith("0 fields differ; choices among them: 0.")


def test_both_choices_redraw_the_families():
    widget = family_explorer(CATALOGUE, "GPT-2 124M", "Llama 3 8B")
    control(widget, "and that").value = "GPT-2 355M"
    assert "355M" in page_of(widget).text and "choices among them: 0" in page_of(widget).text
    control(widget, "this one").value = "GPT-2 355M"
    assert page_of(widget).text.startswith("0 fields differ")


def test_looks_are_those_of_the_text_after_endoftext_and_no_longer_than_asked():
    model, tokenizer = storyteller()
    pieces, weights = compute_looks(model, tokenizer, "abcdef", most=4)
    assert pieces == [b"<|endoftext|>", b"a", b"b", b"c"] and len(weights) == 2
    ids = torch.tensor([[tokenizer.eot, *b"abc"]])
    assert torch.equal(weights[1], attention_weights(model, ids)[1][0])


def test_attention_page_names_the_strongest_look_back():
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.8, 0.0], [0.7, 0.1, 0.2]])
    html = attention_html(["<b>", " b", "c"], weights, "block 0, head 1")
    text = Reader(html).text
    assert text.startswith("block 0, head 1: 15% of a look goes to the token before, on average.")
    assert "The strongest look back: c at <b>, 70%." in text
    assert 'title="c at &lt;b&gt;: 0.70"' in html and Reader(html).tags.count("b") == 1


def test_text_block_and_head_each_redraw_the_attention():
    widget = attention_viewer(*storyteller(), "ab", block=1)
    pages = [page_of(widget).text]
    for name, value in (("block", 0), ("head", 3), ("text", "ba")):
        control(widget, name).value = value
        pages.append(page_of(widget).text)
    assert len(set(pages)) == 4 and pages[-1].startswith("block 0, head 3")
    assert (control(widget, "block").max, control(widget, "head").max) == (1, 3)
    pieces, weights = compute_looks(*storyteller(), "ba")
    html = next(child for child in widget.children if isinstance(child, HTML)).value
    assert html == attention_html(pieces, weights[0][3], "block 0, head 3")


def test_no_text_and_too_much_text_are_shown_too():
    widget = attention_viewer(*storyteller(), "")
    assert "block 0, head 0" in page_of(widget).text
    control(widget, "text").value = FORGED * 9
    assert "script" not in page_of(widget).tags


# ---------------------------------------------------------------- lesson 04

STORY = World("en").stories(1, seed=1)[0]


def test_a_story_leaves_the_world_nowhere_and_a_spoilt_one_where_it_is_spoilt():
    assert where_it_leaves(STORY) is None
    assert where_it_leaves(f"{STORY} And?") == len(STORY)
    assert where_it_leaves("Once upon a tyme") == len("Once upon a t")


def test_a_story_that_mixes_things_up_is_told_from_one_that_leaves_the_grammar():
    colour = World("en").parse(STORY).cast["colour"].en
    at = STORY.rindex(colour)
    mixed = f"{STORY[:at]}{'green' if colour == 'red' else 'red'}{STORY[at + len(colour) :]}"
    assert at <= where_it_leaves(mixed) < at + len(colour)
    assert where_it_leaves(mixed, remembers=False) is None
    assert "It mixes things up" in Reader(verdict_html(mixed)).text
    assert "It leaves the grammar" in Reader(verdict_html(STORY[:-9])).text
    assert "keeps to itself" in Reader(verdict_html(STORY)).text


def test_the_verdict_marks_what_is_wrong_and_text_stays_text():
    reader = Reader(verdict_html(FORGED))
    assert reader.text.startswith(FORGED) and "script" not in reader.tags


def test_the_likeliest_tokens_are_the_model_s_and_then_those_of_the_choice():
    model, tokenizer = storyteller()
    page = Reader(next_tokens_html(model, tokenizer, "ab", GREEDY, most=3))
    probs = model(torch.tensor([[tokenizer.eot, *b"ab"]]))[0, -1].softmax(dim=-1)
    lines = [[cell.strip() for cell in line[1:]] for line in page.lines[1:]]
    likeliest = [f"{p:.3f}" for p in probs.topk(3).values]
    assert lines == [[p, chosen] for p, chosen in zip(likeliest, ["1.000", "0.000", "0.000"])]
    assert "1 token can come next" in page.text
    wide = Reader(next_tokens_html(model, tokenizer, "ab", Sampling(top_k=7)))
    assert "7 tokens can come next" in wide.text and len(wide.lines) == 13


def test_every_control_of_the_laboratory_changes_the_choice_and_the_button_writes():
    widget = sampling_lab(*storyteller(), "ab", max_new=5)
    pages = [page_of(widget).text]
    turned = {"temperature": 0.5, "top-k (0: off)": 40, "top-p (1: off)": 0.1}
    turned |= {"min-p (0: off)": 0.99, "penalty (1: off)": 2.0, "prompt": "b" * 999}
    for name, value in turned.items():
        control(widget, name).value = value
        pages.append(page_of(widget).text)
    assert len(set(pages)) == len(pages)
    control(widget, "Generate").click()
    assert "begins" in widget.children[-1].value


# ---------------------------------------------------------------- lesson 05


def even_law(N, D):
    """The loss of which N = D is the best for every budget."""
    return 1 / N + 1 / D


def test_every_size_that_a_budget_allows_spends_it_whole():
    found = pages.sizes_for(even_law, 1e20, served=1e10)
    assert found and all(6 * N * D + 2 * N * 1e10 == pytest.approx(1e20) for N, D, _ in found)


def test_without_serving_the_even_law_asks_for_one_token_per_parameter():
    html = pages.budget_html(even_law, math.log10(6e18), 0)
    assert "1e+09 parameters, 1e+09 tokens: 1 tokens per parameter" in Reader(html).text


def test_who_serves_more_takes_a_smaller_model():
    sizes = [
        min(pages.sizes_for(even_law, 1e20, s), key=lambda found: found[2])[0]
        for s in (1.0, 1e10, 1e11)
    ]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3


def test_a_budget_too_small_for_its_users_is_told():
    assert "cannot serve" in Reader(pages.budget_html(even_law, 18, 16)).text


def test_budget_explorer_obeys_its_sliders():
    explorer = widgets.budget_explorer(even_law, 20, 6)
    control(explorer, "FLOPs, 10^").value = 22
    control(explorer, "served, 10^").value = 8
    assert page_of(explorer).text == Reader(pages.budget_html(even_law, 22, 8)).text


# ---------------------------------------------------------------- lesson 06


def turns(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def small_talker():
    """A random model of bytes, which talks nonsense until it is cut off."""
    torch.manual_seed(0)
    return Decoder(tiny(LLAMA3_8B, vocab_size=BYTES.vocab_size, context_length=64)).eval()


def test_what_is_said_in_a_chat_stays_text():
    reader = Reader(pages.chat_html(turns(FORGED, "<b>no</b>"), "the <end>"))
    assert f"You: {FORGED}" in reader.text and "Model: <b>no</b>" in reader.text
    assert set(reader.tags) <= {"div", "span", "b"} and "the <end>" in reader.text


def test_the_oldest_turns_are_left_out_in_pairs_until_the_chat_fits():
    said = turns("a", "b", "c", "d", "efg")  # three signs a turn, and the last is waited for
    everything = len(BYTES.chat_prompt(said))
    assert everything == 4 * 3 + 5 + 1
    assert pages.fitting(said, BYTES, everything) == said
    assert pages.fitting(said, BYTES, everything - 1) == said[2:]
    assert pages.fitting(said, BYTES, 6) == said[4:]
    with pytest.raises(ValueError, match="more than 5 tokens: say it in fewer words"):
        pages.fitting(said, BYTES, 5)


def test_an_answer_appears_token_by_token_and_is_kept():
    said, model = [], small_talker()
    shown = [*pages.chat_pages(said, "hi", model, BYTES, GREEDY, 0, 8)]
    assert [turn["role"] for turn in said] == ["user", "assistant"]
    lengths = [len(Reader(page).text) for page in shown]
    assert len(shown) == 8 + 1 and lengths == sorted(lengths)
    assert escape(said[1]["content"]) in shown[-2]
    assert "Cut off after 8 tokens." in shown[-1]


def test_a_chat_that_outgrows_the_context_goes_on_and_says_so():
    said, model = [], small_talker()
    for _ in range(4):
        *_, page = pages.chat_pages(said, "sixteen letters!", model, BYTES, GREEDY, 0, 20)
    assert len(said) == 8
    assert "Forgotten: the first 6 turns. The model reads 44 tokens." in page


def test_a_question_too_long_for_the_context_is_answered_by_a_sentence_and_not_kept():
    said = []
    shown = [*pages.chat_pages(said, "x" * 60, small_talker(), BYTES, GREEDY, 0, 20)]
    assert said == [] and len(shown) == 1
    assert "This alone has more than 44 tokens" in shown[0]


def test_a_model_that_does_not_remember_reads_the_last_question_alone():
    model, alone = small_talker(), []
    said = turns("what I said before", "and what it answered")
    for chat in (said, alone):
        *_, _ = pages.chat_pages(chat, "hi", model, BYTES, GREEDY, 0, 8, remembers=False)
    assert said[3] == alone[1] and len(said) == 4


def test_the_chat_answers_what_is_typed_and_forgets_when_asked_to():
    torch.manual_seed(0)
    model = Decoder(tiny(LLAMA3_8B, vocab_size=BYTES.vocab_size, context_length=130)).eval()
    page, text, memory, send, anew = widgets.chat(model, BYTES).children
    assert not memory.value
    text.value = "hello"
    assert "You: hello" in Reader(page.value).text and text.value == ""
    before = page.value
    text.value = "  "
    send.click()
    assert page.value == before
    anew.click()
    assert "hello" not in page.value


# ---------------------------------------------------------------- lesson 07

STORIES = World("en").stories(6, seed=2)
QUESTIONS = [("one", *STORIES[:2]), ("two", *STORIES[2:4]), ("three", *STORIES[4:])]
LEFT, RIGHT, SKIP = "left is better", "right is better", "skip"


def press(widget, *names):
    buttons = {button.description: button for button in widget.children[1].children}
    for name in names:
        buttons[name].click()


def clicks_in(folder):
    return Clicks(folder / "clicks.jsonl")


def test_a_question_shows_its_prompt_and_both_answers_as_text():
    reader = Reader(question_html(("<b>Ana", FORGED, "right\nanswer"), "note"))
    assert reader.text == f"note<b>Analeft{FORGED}rightright\nanswer"
    assert "script" not in reader.tags


def test_each_choice_is_saved_at_once_and_the_next_pair_comes(tmp_path):
    widget = preference_clicks(QUESTIONS, clicks_in(tmp_path))
    assert "0 of 3 pairs chosen" in page_of(widget).text and STORIES[0] in page_of(widget).text
    press(widget, RIGHT)
    assert clicks_in(tmp_path).pairs() == [Pair("one", STORIES[1], STORIES[0])]
    assert "1 of 3 pairs chosen" in page_of(widget).text and STORIES[2] in page_of(widget).text
    press(widget, LEFT)
    assert clicks_in(tmp_path).pairs()[1] == Pair("two", *STORIES[2:4])


def test_after_a_restart_the_choices_are_there_and_it_goes_on_with_the_next(tmp_path):
    press(preference_clicks(QUESTIONS, clicks_in(tmp_path)), LEFT)
    widget = preference_clicks(QUESTIONS, clicks_in(tmp_path))
    assert "1 of 3 pairs chosen" in page_of(widget).text and STORIES[2] in page_of(widget).text
    assert widget.pairs() == [Pair("one", *STORIES[:2])]


def test_what_was_skipped_is_not_saved_and_comes_back_after_a_restart(tmp_path):
    widget = preference_clicks(QUESTIONS, clicks_in(tmp_path))
    press(widget, SKIP)
    assert "1 skipped" in page_of(widget).text and STORIES[2] in page_of(widget).text
    assert clicks_in(tmp_path).count == 0 and widget.pairs() == []
    assert STORIES[0] in page_of(preference_clicks(QUESTIONS, clicks_in(tmp_path))).text


def test_at_the_end_the_buttons_rest_and_the_crowd_is_compared(tmp_path):
    widget = preference_clicks(QUESTIONS, clicks_in(tmp_path), crowd := Crowd())
    press(widget, LEFT, RIGHT, SKIP)
    first, second = crowd.chance(*STORIES[:2]) > 0.5, crowd.chance(STORIES[3], STORIES[2]) > 0.5
    assert f"agrees with yours in {first + second} of 2 choices" in page_of(widget).text
    assert all(button.disabled for button in widget.children[1].children)
    for choose in (widget.choose_left, widget.choose_right, widget.skip):
        choose()  # a click that was on its way
    assert clicks_in(tmp_path).count == 2 and "1 skipped" in page_of(widget).text


def test_the_crowd_adds_to_my_choices_or_takes_their_place_at_any_time(tmp_path):
    widget = preference_clicks(QUESTIONS, clicks_in(tmp_path), Crowd(noise=0))
    alone = widget.pairs()
    best = Pair("one", *STORIES[:2]) == alone[0]
    press(widget, RIGHT if best else LEFT)  # against the crowd
    mine = Pair("one", alone[0].rejected, alone[0].chosen)
    assert widget.pairs() == [mine, *alone[1:]] and "that count: 3" in page_of(widget).text
    whose = widget.children[2]
    whose.value = "only mine"
    assert widget.pairs() == [mine] and "that count: 1" in page_of(widget).text
    whose.value = "only the crowd's"
    assert widget.pairs() == alone == widget.pairs() and clicks_in(tmp_path).pairs() == [mine]


def test_a_choice_that_cannot_be_saved_is_said_and_the_pair_stays(tmp_path):
    (tmp_path / "plain").write_text("no folder")
    widget = preference_clicks(QUESTIONS, clicks_in(tmp_path / "plain"))
    press(widget, LEFT)
    assert "your choice was not saved in" in page_of(widget).text
    assert "0 of 3 pairs chosen" in page_of(widget).text and STORIES[0] in page_of(widget).text
    press(widget, SKIP)
    assert "not saved" not in page_of(widget).text


def test_damaged_lines_are_counted_on_the_page(tmp_path):
    clicks_in(tmp_path).file.write_bytes(b'{"prompt": "on')
    widget = preference_clicks(QUESTIONS, clicks_in(tmp_path))
    assert "Damaged lines in your file, skipped: 1" in page_of(widget).text
    press(widget, LEFT)
    assert clicks_in(tmp_path).count == 1


def test_equal_answers_are_no_question_and_nothing_to_compare_is_refused(tmp_path):
    widget = preference_clicks([("p", "x", "x"), *QUESTIONS], clicks_in(tmp_path))
    assert "0 of 3 pairs" in page_of(widget).text
    with pytest.raises(ValueError, match="there is nothing to compare"):
        preference_clicks([("p", "x", "x")], clicks_in(tmp_path))


# ---------------------------------------------------------------- lesson 09

CHIP = (1e12, 1e10)  # FLOP and bytes per second
DENSE = families.CATALOGUE["SmolLM2 135M"]


def test_a_step_reads_the_weights_once_and_the_cache_of_each_text():
    weights, cached = pages.step_bytes(DENSE, bits=8, B=3, n_seen=100)
    assert weights == families.parameters(DENSE)
    assert cached == 3 * 100 * families.kv_bytes_per_token(DENSE, 2)
    assert pages.step_bytes(DENSE, 32, 3, 100) == (4 * weights, 2 * cached)


def test_one_text_is_limited_by_memory_and_many_by_the_processor():
    speed, limit = pages.most_tokens(DENSE, CHIP, bits=32, B=1, n_seen=1)
    assert limit == "memory"
    assert speed == pytest.approx(1e10 / (4 * families.parameters(DENSE)), rel=1e-3)
    speed, limit = pages.most_tokens(DENSE, CHIP, bits=32, B=1024, n_seen=1)
    assert limit == "processor"
    assert speed == 1e12 / families.flops_per_token(DENSE, 1, training=False)


def test_speed_explorer_obeys_its_controls():
    other = (2e12, 5e10)
    explorer = widgets.speed_explorer({"here": CHIP, "there": other}, {"SmolLM2": DENSE})
    assert page_of(explorer).text == Reader(pages.speed_html(DENSE, CHIP, 32, 1, 64)).text
    for name, value in {"machine": "there", "bits": 4, "texts, 2^": 3, "tokens, 2^": 9}.items():
        control(explorer, name).value = value
    assert page_of(explorer).text == Reader(pages.speed_html(DENSE, other, 4, 8, 512)).text
