"""python -m pytest tests/test_plots.py -p no:nbval -o addopts="" """

import base64
from itertools import combinations

import matplotlib
import pytest
import torch

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle

from helpers import plots
from helpers.families import GPT2_124M, LLAMA3_8B
from helpers.plots import FAINT_INK, INK, PALETTE, PAPER, TINTS, contrast, readable, visible
from helpers.train import Record


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
        lambda ax: plots.tree(ax, {"b": "a"}, {}),
        lambda ax: plots.blocks(ax, GPT2_124M, LLAMA3_8B),
        lambda ax: plots.masks(ax, {"causal": [[1]]}),
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


def record(step, loss, val_loss=None):
    return Record(step, 100 * step, loss, val_loss, 1e-3, 1.0, 500.0, 2.0 * step)


RUN = [record(1, 6.0), record(2, 4.0, 4.5), record(3, 3.0), record(4, 2.0, 2.5)]


def test_losses_stand_over_the_tokens_at_which_they_were_measured():
    ax = plots.losses(None, RUN, "it falls", {"floor": 0.5})
    batches, train, val, floor = ax.lines
    assert list(batches.get_xdata()) == list(train.get_xdata()) == [100, 200, 300, 400]
    assert list(batches.get_ydata()) == list(train.get_ydata()) == [6, 4, 3, 2]
    assert (list(val.get_xdata()), list(val.get_ydata())) == ([200, 400], [4.5, 2.5])
    assert list(floor.get_ydata()) == [0.5, 0.5]
    assert texts(ax) == ["floor", "train", "val"]


def test_a_long_run_is_drawn_smoothly_and_needs_no_validation():
    ax = plots.losses(None, [record(step, step % 2) for step in range(1, 101)])
    assert [len(line.get_xdata()) for line in ax.lines] == [100, 100]
    assert list(ax.lines[1].get_ydata())[3:7] == pytest.approx([1 / 3, 2 / 3, 1 / 3, 2 / 3])


def test_a_trailing_mean_worked_by_hand():
    assert plots.trailing_mean([3, 5, 10, 0], 3) == [3, 4, 6, 5]


def test_any_text_can_be_drawn():
    assert plots.safe_to_draw("a $5\nb\x00\U0001f600ç") == "a \\$5\nb□□ç"


# ---------------------------------------------------------------- inside the model


def test_a_run_that_ends_early_ends_with_a_dot_at_its_last_value():
    ax = plots.runs(None, [1, 2, 3], {"whole": [[1, 2, 3]], "short": [[5, 4]]}, "place", "right")
    whole, short, dot = ax.lines
    assert list(whole.get_xdata()) == [1, 2, 3] and list(short.get_xdata()) == [1, 2]
    assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([2], [4])
    assert dot.get_color() == short.get_color()


def test_attention_writes_its_weights_query_down_and_key_across_and_none_where_there_is_none():
    ax = plots.attention(None, torch.tensor([[1.0, 0.0], [0.25, 0.75]]), ["a", "b"], "looks")
    assert [(t.get_text(), t.get_position()) for t in ax.texts] == [
        ("1.00", (0, 0)),
        ("0.25", (0, 1)),
        ("0.75", (1, 1)),
    ]
    colours = [matplotlib.colors.to_hex(p.get_facecolor()).upper() for p in ax.patches]
    assert colours[0] == PALETTE["blue"] and colours[1] == "#EEEEEE"
    assert "query" in ax.get_ylabel() and "key" in ax.get_xlabel()


@pytest.mark.parametrize("weight", [k / 20 for k in range(1, 21)])
def test_a_weight_can_be_read_on_its_colour(weight):
    ax = plots.attention(None, [[weight]], ["a"])
    assert contrast(ax.texts[0].get_color(), ax.patches[0].get_facecolor()) > 4


def test_many_tokens_have_colours_only():
    ax = plots.attention(None, torch.eye(9), list("abcdefghi"))
    assert texts(ax) == [] and len(ax.patches) == 81


@pytest.mark.parametrize(("labels", "turned"), [(["lost"] * 4, 0), (["lost"] * 12, 90)])
def test_names_of_keys_stand_upright_only_where_there_is_no_room(labels, turned):
    ax = plots.mask(None, torch.eye(len(labels)), labels)
    assert {label.get_rotation() for label in ax.get_xticklabels()} == {turned}


def test_the_machine_names_its_parts_and_nothing_overlaps():
    ax = plots.machine(None, "the whole")
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    assert {"ids", "embedding", "attention", "MLP", "norm", "lm_head", "logits"} <= set(texts(ax))
    assert texts(ax).count("norm") == 3 and texts(ax).count("+") == 2
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_pairs_are_the_halves_of_a_vector_one_circle_each():
    ax = plots.pairs(None, {"query": [0.1, 0.2, 0.3, 0.4], "key": [1, 0, 0, 1]}, ["p0", "p1"])
    arrows = [(a.xyann, a.xy) for a in ax.texts if a.get_text() == ""]
    assert arrows == [
        ((0, 0), (0.1, 0.3)),
        ((3, 0), (3.2, 0.4)),
        ((0, 0), (1, 0)),
        ((3, 0), (3, 1)),
    ]
    assert [name.get_text() for name in ax.get_legend().texts] == ["query", "key"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.attention(ax, [[1.0]], ["a"]),
        lambda ax: plots.machine(ax),
        lambda ax: plots.pairs(ax, {"query": [1, 0]}, ["p0"]),
    ],
)
def test_every_picture_of_the_model_draws_on_the_axes_it_is_given(draw):
    ax = plt.subplots()[1]
    assert draw(ax) is ax
    assert plt.get_fignums() == [ax.figure.number]


# ---------------------------------------------------------------- lesson 03b


def test_a_tree_has_children_below_their_parent_and_further_right():
    relatives = {"b": "a", "c": "a", "d": "b", "e": "d"}
    ax = plots.tree(None, relatives, {"d": "2: norm, $x$"})
    places = {text.get_text(): text.get_position() for text in ax.texts if text.get_text()}
    names = [name for name in places if len(name) == 1]
    assert names == [*"abdec"] and [places[name][1] for name in names] == [0, 1, 2, 3, 4]
    assert places["a"][0] < places["b"][0] == places["c"][0] < places["d"][0] < places["e"][0]
    assert places[r"2: norm, \$x\$"][1] == places["d"][1]


def test_blocks_mark_what_the_other_lacks_and_nothing_else():
    ax = plots.blocks(None, GPT2_124M, LLAMA3_8B)
    marked = {text.get_text() for text in ax.texts if text.get_bbox_patch()}
    assert {"LayerNorm", "RMSNorm", "GELU", "SwiGLU", "biases", "a key for 4 heads"} <= marked
    assert "a row per token" in texts(ax) and "a row per token" not in marked
    assert {"GPT-2 124M", "Llama 3 8B", "x 12", "x 32"} <= set(texts(ax))


def test_blocks_of_one_model_twice_have_no_mark():
    ax = plots.blocks(None, LLAMA3_8B, LLAMA3_8B)
    assert not [text for text in ax.texts if text.get_bbox_patch()]


def test_masks_stand_side_by_side_under_their_names_queries_down():
    causal = torch.ones(3, 3).tril().bool()
    ax = plots.masks(None, {"causal": causal, "all": causal | causal.mT}, "two")
    first, second = (image.get_array().tolist() for image in ax.images)
    assert first == [[1, 0, 0], [1, 1, 0], [1, 1, 1]] and second == 3 * [[1, 1, 1]]
    assert ax.images[0].get_extent()[1] < ax.images[1].get_extent()[0]
    assert list(ax.images[0].get_extent()[2:]) == [1, 0]  # the first query is on top
    assert {"causal", "all"} <= set(texts(ax)) and ax.yaxis_inverted()


# ---------------------------------------------------------------- lesson 04


def colours_of(ax):
    """The colours of the drawn letters, line by line."""
    return [to_hex(patch.get_facecolor()).lower() for patch in ax.patches]


def test_a_story_is_marked_from_the_letter_where_it_goes_wrong():
    story, probs = f"{'fine ' * 14}fine wrong", {"end": [0.5]}  # breaks after 14 or so words
    n_lines = len(colours_of(plots.storyboard({"end": (story, len(story))}, probs)))
    assert set(colours_of(plots.storyboard({"end": (story, len(story))}, probs))) == {INK.lower()}
    assert INK.lower() not in colours_of(plots.storyboard({"end": (story, 0)}, probs))
    half = colours_of(plots.storyboard({"end": (story, len(story) - 5)}, probs))
    assert len(half) == n_lines + 1 and half.count(INK.lower()) == n_lines


def test_a_storyboard_has_a_histogram_of_all_probabilities_beside_each_text():
    stories = {"early": ("x", 1), "late": ("y", 1)}
    ax = plots.storyboard(stories, {"early": [0.0, 0.01], "late": [0.99, 1.0, 1.0]})
    heights = [[bar.get_height() for bar in each.patches] for each in ax.figure.axes[1::2]]
    assert heights == [[2] + 19 * [0], 19 * [0] + [3]]


def test_a_roof_rises_with_the_memory_s_speed_and_is_flat_at_the_chip_s():
    ax = plots.roofline(None, {"chip": (100.0, 10.0)}, {"write": 1.0, "train": 64.0})
    x, y = ax.lines[0].get_data()
    heights = dict(zip(x, y))
    assert (heights[1], heights[4], heights[16], heights[64]) == (10, 40, 100, 100)
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == [1, 64]
    assert {"write", "train", "chip"} <= set(texts(ax))


def test_points_draws_every_seed_and_a_line_through_their_means():
    ax = plots.points(None, {"a": [(1, 2.0), (1, 4.0), (3, 5.0)]}, "x", "y", "t", {"floor": 0.5})
    means, seeds, floor = ax.lines
    assert means.get_xydata().tolist() == [[1, 3], [3, 5]]
    assert seeds.get_xydata().tolist() == [[1, 2], [1, 4], [3, 5]]
    assert set(floor.get_ydata()) == {0.5} and texts(ax) == ["floor", "a"]


def test_a_log_axis_of_points_has_a_tick_where_something_was_measured():
    ax = plt.subplots()[1]
    ax.set_xscale("log")
    plots.points(ax, {"a": [(0.03, 1.0), (16, 2.0), (131_392, 1.0)]}, "x", "y")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.03", "16", "131k"]


def test_curves_have_an_x_of_their_own():
    ax = plots.curves(None, {"a": ([0, 1], [2, 3]), "b": ([5, 6, 7], [1, 1, 1])}, "x", "y")
    assert [list(line.get_xdata()) for line in ax.lines] == [[0, 1], [5, 6, 7]]


def test_a_gallery_shows_each_run_whole_on_one_scale():
    curves = {"A": {"train": [3.0, 1.0], "val": [3.0, 2.0, 1.5, 9.0]}, "B": {"train": [4.0, 2.0]}}
    a, b = plots.gallery(curves, {"log V": 6.0, "floor": 1.0}, columns=2).axes
    assert [list(line.get_xdata()) for line in a.lines[:2]] == [[0.5, 1], [0.25, 0.5, 0.75, 1]]
    assert a.get_ylim() == b.get_ylim() == (0, pytest.approx(6.9))
    assert (texts(a), texts(b)) == ([], ["floor", "log V"])


def test_axes_over_a_text_leave_room_for_its_lines_and_no_text_takes_none():
    plain, over = plots.axes_over(), plots.axes_over("a $ and\nanother line")
    assert len(plain.figure.axes) == 1 and texts(over.figure.axes[1]) == [
        r"a \$ and" + "\nanother line"
    ]
    assert over.figure.get_figheight() == pytest.approx(plain.figure.get_figheight() + 0.5)
