"""python -m pytest tests/test_plots.py -p no:nbval -o addopts="" """

import base64
from itertools import combinations

import matplotlib
import pytest
import torch

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle

from helpers import plots
from helpers.plots import FAINT_INK, INK, PALETTE, PAPER, TINTS, contrast, readable, visible


@pytest.fixture(autouse=True)
def course_style():
    with plt.rc_context():
        plots.style()
        yield
    plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.texts]


# ---------------------------------------------------------------- colours


def test_contrast_of_black_on_white_is_21_and_of_a_colour_on_itself_1():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#56B4E9", "#56B4E9") == 1


def test_contrast_equals_the_standard_s_example():
    """Grey #767676 on white is the lightest grey that passes 4.5:1."""
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("tint", TINTS)
@pytest.mark.parametrize("ink", [INK, FAINT_INK])
def test_letters_and_marks_can_be_read_on_every_token(ink, tint):
    assert contrast(ink, tint) >= 4.5


@pytest.mark.parametrize("colour", PALETTE.values())
def test_a_label_in_any_colour_of_the_palette_can_be_read_on_white(colour):
    assert contrast(readable(colour), PAPER) >= 4.5


def test_a_colour_that_can_be_read_stays_as_it_is():
    assert readable(PALETTE["blue"]) == PALETTE["blue"]


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        (" cora", "·cora"),
        ("ção", "ção"),
        ("):\n\t", "):↵→"),
        (" não".encode(), "·não"),
        (b"\xf0\x9f", "\\xf0\\x9f"),
        (b" \xc3", "·\\xc3"),
        ("\u200d\xa0", "U+200DU+00A0"),
        ("\ud83d", "U+D83D"),
        ("", ""),
    ],
)
def test_visible_pieces(piece, expected):
    assert visible(piece) == expected


def test_boxes_follow_each_other_without_touching_and_wrap():
    places = plots._places(["abcd"] * 5, per_line=12)  # each 4.7 wide, 0.3 apart
    assert [line for line, _ in places] == [0, 0, 1, 1, 2]
    assert [x for _, x in places] == pytest.approx([0, 5, 0, 5, 0])


def test_a_line_s_end_ends_the_line():
    assert [line for line, _ in plots._places(["a", ".↵", "b", "↵", "c"], 50)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("pieces", [["x" * 500], ["word"] * 300, [" ", "\n", "a"] * 9])
def test_no_box_leaves_its_strip(pieces):
    ax = plots.token_strip(None, pieces)
    boxes = [p.get_extents() for p in ax.patches]
    frame = ax.bbox.padded(0.5)
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 for b in boxes)
    assert all(frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)


HARD = [" To", "\n", "😀", b"\xf0\x9f", "中文", "a\u0301", "\x00", "\u200d", "$x$", "\\$", ""]


@pytest.mark.parametrize("ax", [None, "given"])
def test_hard_pieces_are_drawn_without_a_warning(ax):  # a warning is an error here
    ax = plt.subplots()[1] if ax else None
    ax = plots.token_strip(ax, HARD, "hard")
    plots.windows_figure(None, HARD, 3, 2).figure.canvas.draw()
    plots.mask(None, torch.ones(11, 11), HARD).figure.canvas.draw()
    ax.figure.canvas.draw()
    assert ax.get_title(loc="left") == "hard"


def test_dollars_are_money_and_not_formulas(monkeypatch):
    drawn = []
    path = plots.TextPath
    monkeypatch.setattr(plots, "TextPath", lambda *a, **k: drawn.append(path(*a, **k)) or drawn[-1])
    plots.token_strip(None, ["$x$"])
    assert drawn[0].get_extents().width > 2 * plots.EM * 0.6  # three letters, not one


def test_a_strip_of_nothing_is_refused():
    with pytest.raises(ValueError, match="there are no tokens to draw"):
        plots.token_strip(None, [])


def test_spaces_are_fainter_than_letters():
    ax = plots.token_strip(None, [" a"])
    colours = [p.get_facecolor() for p in ax.patches if type(p) is PathPatch]
    assert [matplotlib.colors.to_hex(c).upper() for c in colours] == [INK, FAINT_INK]


def test_a_strip_in_a_given_axes_stays_there():
    figure, (above, below) = plt.subplots(2, 1)
    assert plots.token_strip(above, ["a", "b"]) is above
    assert len(figure.axes) == 2 and not below.patches


def test_marked_pieces_have_one_colour_and_all_others_another():
    ax = plots.token_strip(None, ["a", "b", "c"], marked=[False, True, False])
    boxes = [p for p in ax.patches if type(p) is FancyBboxPatch]
    colours = [matplotlib.colors.to_hex(p.get_facecolor()).upper() for p in boxes]
    assert colours == [plots.UNMARKED, plots.MARKED.upper(), plots.UNMARKED]


@pytest.mark.parametrize("colour", [plots.MARKED, plots.UNMARKED])
@pytest.mark.parametrize("ink", [INK, FAINT_INK])
def test_letters_can_be_read_whether_marked_or_not(ink, colour):
    assert contrast(ink, colour) >= 4.5


def test_strips_stand_under_their_names_in_order_and_do_not_touch():
    ax = plots.token_strips(None, {"ours": ["a", "b"], "$1": ["word"] * 30, "theirs": ["c"]})
    assert texts(ax) == ["ours", r"\$1", "theirs"]
    places = [
        [-p.get_y() for p in ax.patches if type(p) is FancyBboxPatch][i] for i in (0, 1, 2, 31, 32)
    ]
    heights = [-text.get_position()[1] for text in ax.texts]
    assert places[0] == places[1] < heights[1] < places[2] < places[3] < heights[2] < places[4]


def test_a_strip_of_strips_alone_looks_as_it_does_among_others():
    alone, among = plots.token_strip(None, ["a"]), plots.token_strips(None, {"": ["a"]})
    assert [p.get_facecolor() for p in alone.patches] == [p.get_facecolor() for p in among.patches]


# ---------------------------------------------------------------- curves, bars, windows, masks


def test_runs_draw_a_line_per_seed_in_one_colour_and_name_them_at_their_mean_end():
    ax = plots.runs(None, [1, 2], {"a": [[5, 1], [5, 3]], "b": [[4, 8]]}, "passes", "loss")
    blue, vermillion = PALETTE["blue"], PALETTE["vermillion"]
    assert [line.get_color() for line in ax.lines] == [blue, blue, vermillion]
    assert [list(line.get_ydata()) for line in ax.lines] == [[5, 1], [5, 3], [4, 8]]
    assert {text.get_text(): text.xy[1] for text in ax.texts} == {"a": 2, "b": 8}


def test_lines_are_named_at_their_end_and_train_and_val_keep_their_colours():
    ax = plots.lines(None, [1, 2], {"val": [3, 2], "train": [3, 1]}, "steps", "loss (nats)")
    assert texts(ax) == ["train", "val"]
    assert [line.get_color() for line in ax.lines] == [PALETTE["vermillion"], PALETTE["blue"]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("steps", "loss (nats)")


def test_names_of_lines_never_overlap_and_keep_their_order():
    series = {f"run {k}": [4, 1 + k / 1000] for k in range(8)}
    landmarks = {"floor": 0.999, "log V": 4.2}
    ax = plots.lines(None, [0, 1], series, "steps", "loss", landmarks=landmarks)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert texts(ax) == ["floor", *series, "log V"]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_a_landmark_lies_flat_at_its_value():
    ax = plots.lines(None, [0, 1], {"train": [2, 1]}, "steps", "loss", landmarks={"floor": 0.5})
    assert list(ax.lines[1].get_ydata()) == [0.5, 0.5]


def test_bars_carry_their_values_and_read_downwards():
    ax = plots.bars(None, ["first", "second"], [1.234, 50257], "tokens", form="{:,.1f}")
    assert texts(ax) == ["1.2", "50,257.0"]
    assert [bar.get_width() for bar in ax.patches] == [1.234, 50257]
    assert ax.yaxis_inverted()


def test_dots_stand_at_their_values_and_the_outer_two_are_written():
    series = {"en": [1.5, 4], "pt": [2.25, 3], "both": [2, 3.5]}
    ax = plots.dots(None, ["first", "second"], series, "tokens per word")
    assert [list(line.get_xdata()) for line in ax.lines[:3]] == [[1.5, 4], [2.25, 3], [2, 3.5]]
    assert texts(ax) == ["2.25", "1.50", "4.00", "3.00"]
    assert [text.get_text() for text in ax.get_legend().texts] == [*series]
    assert ax.yaxis_inverted()


def test_dots_of_one_series_are_written_once_and_take_a_log_scale():
    ax = plt.subplots()[1]
    ax.set_xscale("log")
    plots.dots(ax, ["a", "b"], {"tokens": [1e6, 1e12]}, "tokens", form="{:.0e}")
    assert texts(ax) == ["1e+06", "1e+12"]
    assert ax.get_legend() is None and ax.get_xscale() == "log"


def test_windows_figure_counts_by_hand():
    """Six tokens, T = 2, stride 1: four windows, from 0 to 3; token 5 is only a target."""
    ax = plots.windows_figure(None, ["$x$", *"bcdef"], T=2, stride=1, most=3)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["window 0", "window 1", "window 2", "and 1 more", "times an input"]
    assert ax.get_xticklabels()[0].get_text() == r"\$x\$"  # as matplotlib writes a plain $
    assert texts(ax) == ["1", "2", "2", "2", "1", "0"]
    filled = [p for p in ax.patches if type(p) is Rectangle and p.get_fill()]
    assert [round(p.get_x() + 0.46) for p in filled] == [0, 1, 1, 2, 2, 3]


def test_mask_has_queries_down_and_keys_across():
    ax = plots.mask(None, torch.ones(3, 3).tril().bool(), ["a", " b", "c"], "causal")
    dark = [p for p in ax.patches if p.get_facecolor()[0] < 0.5]
    cells = sorted((round(p.get_y() + 0.42), round(p.get_x() + 0.46)) for p in dark)
    assert cells == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    assert ax.yaxis_inverted() and not ax.xaxis_inverted()
    assert "query" in ax.get_ylabel() and "key" in ax.get_xlabel()


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.lines(ax, [0, 1], {"train": [2, 1]}, "steps", "loss"),
        lambda ax: plots.bars(ax, ["a"], [1], "tokens"),
        lambda ax: plots.windows_figure(ax, list("abcdef"), 2, 2),
        lambda ax: plots.mask(ax, [[1]], ["a"]),
        lambda ax: plots.token_strip(ax, ["a"]),
        lambda ax: plots.token_strips(ax, {"ours": ["a"], "theirs": ["a"]}),
        lambda ax: plots.dots(ax, ["a"], {"en": [1]}, "tokens"),
    ],
)
def test_every_plot_draws_on_the_axes_it_is_given_and_returns_it(draw):
    ax = plt.subplots()[1]
    assert draw(ax) is ax
    assert plt.get_fignums() == [ax.figure.number]


def test_the_words_of_a_figure_stay_words(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", lambda data, **rest: shown.append(data))
    plots.show(plt.subplots()[0], "<|end|> & a < b")
    assert "&lt;|end|&gt; &amp; a &lt; b</details>" in shown[1]["text/html"]


def test_show_displays_one_described_picture_and_closes_the_figure(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", lambda data, **rest: shown.append((data, rest)))
    figure, ax = plt.subplots()
    ax.plot([1, 2])
    plots.show(figure, "loss falls below 1.25 nats")
    (data, rest), (words, _) = shown
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == words["text/plain"] == "loss falls below 1.25 nats"
    assert rest == {"raw": True, "metadata": {"image/png": {"alt": "loss falls below 1.25 nats"}}}
    assert words["text/html"].startswith("<details>")
    assert plt.get_fignums() == []
