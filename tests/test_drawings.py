"""python -m pytest tests/test_drawings.py -p no:nbval -o addopts="" """

from itertools import combinations

import matplotlib
import pytest
import torch

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle

from helpers import drawings, plots
from helpers.families import GPT2_124M, LLAMA3_8B
from helpers.plots import FAINT_INK, INK, PALETTE, contrast

pytestmark = pytest.mark.usefixtures("course_style")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_boxes_follow_each_other_without_touching_and_wrap():
    places = drawings._places(["abcd"] * 5, per_line=12)  # each 4.7 wide, 0.3 apart
    assert [line for line, _ in places] == [0, 0, 1, 1, 2]
    assert [x for _, x in places] == pytest.approx([0, 5, 0, 5, 0])


def test_a_line_s_end_ends_the_line():
    assert [line for line, _ in drawings._places(["a", ".↵", "b", "↵", "c"], 50)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("pieces", [["x" * 500], ["word"] * 300, [" ", "\n", "a"] * 9])
def test_no_box_leaves_its_strip(pieces):
    ax = drawings.token_strip(None, pieces)
    boxes = [p.get_extents() for p in ax.patches]
    frame = ax.bbox.padded(0.5)
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 for b in boxes)
    assert all(frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)


HARD = [" To", "\n", "😀", b"\xf0\x9f", "中文", "a\u0301", "\x00", "\u200d", "$x$", "\\$", ""]


@pytest.mark.parametrize("ax", [None, "given"])
def test_hard_pieces_are_drawn_without_a_warning(ax):  # a warning is an error here
    ax = plt.subplots()[1] if ax else None
    ax = drawings.token_strip(ax, HARD, "hard")
    drawings.windows_figure(None, HARD, 3, 2).figure.canvas.draw()
    drawings.mask(None, torch.ones(11, 11), HARD).figure.canvas.draw()
    ax.figure.canvas.draw()
    assert ax.get_title(loc="left") == "hard"


def test_dollars_are_money_and_not_formulas(monkeypatch):
    drawn = []
    path = drawings.TextPath

    def spy(*a, **k):
        drawn.append(path(*a, **k))
        return drawn[-1]

    monkeypatch.setattr(drawings, "TextPath", spy)
    drawings.token_strip(None, ["$x$"])
    assert drawn[0].get_extents().width > 2 * drawings.EM * 0.6  # three letters, not one


def test_a_strip_of_nothing_is_refused():
    with pytest.raises(ValueError, match="there are no tokens to draw"):
        drawings.token_strip(None, [])


def test_spaces_are_fainter_than_letters():
    ax = drawings.token_strip(None, [" a"])
    colours = [p.get_facecolor() for p in ax.patches if type(p) is PathPatch]
    assert [matplotlib.colors.to_hex(c).upper() for c in colours] == [INK, FAINT_INK]


def test_a_strip_in_a_given_axes_stays_there():
    figure, (above, below) = plt.subplots(2, 1)
    assert drawings.token_strip(above, ["a", "b"]) is above
    assert len(figure.axes) == 2 and not below.patches


def test_marked_pieces_have_one_colour_and_all_others_another():
    ax = drawings.token_strip(None, ["a", "b", "c"], marked=[False, True, False])
    boxes = [p for p in ax.patches if type(p) is FancyBboxPatch]
    colours = [matplotlib.colors.to_hex(p.get_facecolor()).upper() for p in boxes]
    assert colours == [plots.UNMARKED, plots.MARKED.upper(), plots.UNMARKED]


def test_strips_stand_under_their_names_in_order_and_do_not_touch():
    ax = drawings.token_strips(None, {"ours": ["a", "b"], "$1": ["word"] * 30, "theirs": ["c"]})
    assert texts(ax) == ["ours", r"\$1", "theirs"]
    places = [
        [-p.get_y() for p in ax.patches if type(p) is FancyBboxPatch][i] for i in (0, 1, 2, 31, 32)
    ]
    heights = [-text.get_position()[1] for text in ax.texts]
    assert places[0] == places[1] < heights[1] < places[2] < places[3] < heights[2] < places[4]


def test_a_strip_of_strips_alone_looks_as_it_does_among_others():
    alone, among = drawings.token_strip(None, ["a"]), drawings.token_strips(None, {"": ["a"]})
    assert [p.get_facecolor() for p in alone.patches] == [p.get_facecolor() for p in among.patches]


def test_windows_figure_counts_by_hand():
    """Six tokens, T = 2, stride 1: four windows, from 0 to 3; token 5 is only a target."""
    ax = drawings.windows_figure(None, ["$x$", *"bcdef"], T=2, stride=1, most=3)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["window 0", "window 1", "window 2", "and 1 more", "times an input"]
    assert ax.get_xticklabels()[0].get_text() == r"\$x\$"  # as matplotlib writes a plain $
    assert texts(ax) == ["1", "2", "2", "2", "1", "0"]
    filled = [p for p in ax.patches if type(p) is Rectangle and p.get_fill()]
    assert [round(p.get_x() + 0.46) for p in filled] == [0, 1, 1, 2, 2, 3]


def test_mask_has_queries_down_and_keys_across():
    ax = drawings.mask(None, torch.ones(3, 3).tril().bool(), ["a", " b", "c"], "causal")
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
        lambda ax: drawings.windows_figure(ax, list("abcdef"), 2, 2),
        lambda ax: drawings.mask(ax, [[1]], ["a"]),
        lambda ax: drawings.token_strip(ax, ["a"]),
        lambda ax: drawings.token_strips(ax, {"ours": ["a"], "theirs": ["a"]}),
        lambda ax: plots.dots(ax, ["a"], {"en": [1]}, "tokens"),
        lambda ax: drawings.tree(ax, {"b": "a"}, {}),
        lambda ax: drawings.blocks(ax, GPT2_124M, LLAMA3_8B),
        lambda ax: drawings.masks(ax, {"causal": [[1]]}),
    ],
)
def test_every_plot_draws_on_the_axes_it_is_given_and_returns_it(draw):
    ax = plt.subplots()[1]
    assert draw(ax) is ax
    assert plt.get_fignums() == [ax.figure.number]


def test_attention_writes_its_weights_query_down_and_key_across_and_none_where_there_is_none():
    ax = drawings.attention(None, torch.tensor([[1.0, 0.0], [0.25, 0.75]]), ["a", "b"], "looks")
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
    ax = drawings.attention(None, [[weight]], ["a"])
    assert contrast(ax.texts[0].get_color(), ax.patches[0].get_facecolor()) > 4


def test_many_tokens_have_colours_only():
    ax = drawings.attention(None, torch.eye(9), list("abcdefghi"))
    assert texts(ax) == [] and len(ax.patches) == 81


@pytest.mark.parametrize(("labels", "turned"), [(["lost"] * 4, 0), (["lost"] * 12, 90)])
def test_names_of_keys_stand_upright_only_where_there_is_no_room(labels, turned):
    ax = drawings.mask(None, torch.eye(len(labels)), labels)
    assert {label.get_rotation() for label in ax.get_xticklabels()} == {turned}


def test_the_machine_names_its_parts_and_nothing_overlaps():
    ax = drawings.machine(None, "the whole")
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    assert {"ids", "embedding", "attention", "MLP", "norm", "lm_head", "logits"} <= set(texts(ax))
    assert texts(ax).count("norm") == 3 and texts(ax).count("+") == 2
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_pairs_are_the_halves_of_a_vector_one_circle_each():
    ax = drawings.pairs(None, {"query": [0.1, 0.2, 0.3, 0.4], "key": [1, 0, 0, 1]}, ["p0", "p1"])
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
        lambda ax: drawings.attention(ax, [[1.0]], ["a"]),
        lambda ax: drawings.machine(ax),
        lambda ax: drawings.pairs(ax, {"query": [1, 0]}, ["p0"]),
    ],
)
def test_every_picture_of_the_model_draws_on_the_axes_it_is_given(draw):
    ax = plt.subplots()[1]
    assert draw(ax) is ax
    assert plt.get_fignums() == [ax.figure.number]


def test_a_tree_has_children_below_their_parent_and_further_right():
    relatives = {"b": "a", "c": "a", "d": "b", "e": "d"}
    ax = drawings.tree(None, relatives, {"d": "2: norm, $x$"})
    places = {text.get_text(): text.get_position() for text in ax.texts if text.get_text()}
    names = [name for name in places if len(name) == 1]
    assert names == [*"abdec"] and [places[name][1] for name in names] == [0, 1, 2, 3, 4]
    assert places["a"][0] < places["b"][0] == places["c"][0] < places["d"][0] < places["e"][0]
    assert places[r"2: norm, \$x\$"][1] == places["d"][1]


def test_blocks_mark_what_the_other_lacks_and_nothing_else():
    ax = drawings.blocks(None, GPT2_124M, LLAMA3_8B)
    marked = {text.get_text() for text in ax.texts if text.get_bbox_patch()}
    assert {"LayerNorm", "RMSNorm", "GELU", "SwiGLU", "biases", "a key for 4 heads"} <= marked
    assert "a row per token" in texts(ax) and "a row per token" not in marked
    assert {"GPT-2 124M", "Llama 3 8B", "x 12", "x 32"} <= set(texts(ax))


def test_blocks_of_one_model_twice_have_no_mark():
    ax = drawings.blocks(None, LLAMA3_8B, LLAMA3_8B)
    assert not [text for text in ax.texts if text.get_bbox_patch()]


def test_masks_stand_side_by_side_under_their_names_queries_down():
    causal = torch.ones(3, 3).tril().bool()
    ax = drawings.masks(None, {"causal": causal, "all": causal | causal.mT}, "two")
    first, second = (image.get_array().tolist() for image in ax.images)
    assert first == [[1, 0, 0], [1, 1, 0], [1, 1, 1]] and second == 3 * [[1, 1, 1]]
    assert ax.images[0].get_extent()[1] < ax.images[1].get_extent()[0]
    assert list(ax.images[0].get_extent()[2:]) == [1, 0]  # the first query is on top
    assert {"causal", "all"} <= set(texts(ax)) and ax.yaxis_inverted()


def colours_of(ax):
    """The colours of the drawn letters, line by line."""
    return [to_hex(patch.get_facecolor()).lower() for patch in ax.patches]


def test_a_story_is_marked_from_the_letter_where_it_goes_wrong():
    story, probs = f"{'fine ' * 14}fine wrong", {"end": [0.5]}  # breaks after 14 or so words
    n_lines = len(colours_of(drawings.storyboard({"end": (story, len(story))}, probs)))
    whole = colours_of(drawings.storyboard({"end": (story, len(story))}, probs))
    assert set(whole) == {INK.lower()}
    assert INK.lower() not in colours_of(drawings.storyboard({"end": (story, 0)}, probs))
    half = colours_of(drawings.storyboard({"end": (story, len(story) - 5)}, probs))
    assert len(half) == n_lines + 1 and half.count(INK.lower()) == n_lines


def test_a_storyboard_has_a_histogram_of_all_probabilities_beside_each_text():
    stories = {"early": ("x", 1), "late": ("y", 1)}
    ax = drawings.storyboard(stories, {"early": [0.0, 0.01], "late": [0.99, 1.0, 1.0]})
    heights = [[bar.get_height() for bar in each.patches] for each in ax.figure.axes[1::2]]
    assert heights == [[2] + 19 * [0], 19 * [0] + [3]]
