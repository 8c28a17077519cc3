"""python -m pytest tests/test_widgets.py -p no:nbval -o addopts="" """

import re
from html.parser import HTMLParser

import pytest
import tiktoken
from ipywidgets import HTML, Widget

from helpers.plots import contrast
from helpers.tokenizer import Tokenizer, merge_steps
from helpers.widgets import (
    compute_tokens,
    letters_html,
    merge_stepper,
    merges_html,
    strip_html,
    token_explorer,
    tokens_html,
    window_explorer,
    windows_html,
)

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
    ],
)
def test_a_widget_is_returned_and_every_control_says_what_it_is(make):
    widget = make()
    assert isinstance(widget, Widget)
    assert all(child.description for child in widget.children if not isinstance(child, HTML))
