"""python -m pytest tests/test_plots.py -p no:nbval -o addopts="" """

import base64
from itertools import combinations

import matplotlib
import pytest

matplotlib.use("agg")

from matplotlib import pyplot as plt

from helpers import plots
from helpers.plots import FAINT_INK, INK, PALETTE, PAPER, TINTS, contrast, readable, visible
from helpers.train import Record

pytestmark = pytest.mark.usefixtures("course_style")


def texts(ax):
    return [text.get_text() for text in ax.texts]


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


@pytest.mark.parametrize("colour", [plots.MARKED, plots.UNMARKED])
@pytest.mark.parametrize("ink", [INK, FAINT_INK])
def test_letters_can_be_read_whether_marked_or_not(ink, colour):
    assert contrast(ink, colour) >= 4.5


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


def test_numbers_of_tokens_do_not_run_into_each_other():
    ax = plots.losses(None, [record(step, 1.0) for step in range(1, 4167)])
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert len(boxes) > 2
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_a_long_run_is_drawn_smoothly_and_needs_no_validation():
    ax = plots.losses(None, [record(step, step % 2) for step in range(1, 101)])
    assert [len(line.get_xdata()) for line in ax.lines] == [100, 100]
    assert list(ax.lines[1].get_ydata())[3:7] == pytest.approx([1 / 3, 2 / 3, 1 / 3, 2 / 3])


def test_a_trailing_mean_worked_by_hand():
    assert plots.trailing_mean([3, 5, 10, 0], 3) == [3, 4, 6, 5]


def test_any_text_can_be_drawn():
    assert plots.safe_to_draw("a $5\nb\x00\U0001f600ç") == "a \\$5\nb□□ç"


def test_a_run_that_ends_early_ends_with_a_dot_at_its_last_value():
    ax = plots.runs(None, [1, 2, 3], {"whole": [[1, 2, 3]], "short": [[5, 4]]}, "place", "right")
    whole, short, dot = ax.lines
    assert list(whole.get_xdata()) == [1, 2, 3] and list(short.get_xdata()) == [1, 2]
    assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([2], [4])
    assert dot.get_color() == short.get_color()


def test_a_roof_rises_with_the_memory_s_speed_and_is_flat_at_the_chip_s():
    ax = plots.roofline(None, {"chip": (100.0, 10.0)}, {"write": 1.0, "train": 64.0})
    x, y = ax.lines[0].get_data()
    heights = dict(zip(x, y))
    assert (heights[1], heights[4], heights[16], heights[64]) == (10, 40, 100, 100)
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == [1, 64]
    assert {"write", "train", "chip"} <= set(texts(ax))


def test_what_was_reached_stands_under_its_roof_as_a_dot_with_a_name():
    roofs, reached = {"chip": (100.0, 10.0)}, {"ours": (0.5, 4.0), "theirs": (64.0, 80.0)}
    ax = plots.roofline(None, roofs, {"write": 0.5}, reached=reached)
    dots = {line.get_label(): tuple(line.get_xydata()[0]) for line in ax.lines[2:]}
    assert dots == reached
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ours", "theirs"]


def test_a_ladder_names_each_gain_and_colours_the_rung_that_loses():
    ax = plots.ladder(None, {"start": 10.0, "cache": 50.0, "16 bits": 40.0}, "tokens per second")
    said = [text.get_text() for text in ax.texts if text.get_text()]
    assert said == ["10", "50  (× 5.0)", "40  (× 0.8)"]
    colours = [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in ax.patches]
    assert colours == [PALETTE[name] for name in ("blue", "blue", "vermillion")]
    assert ax.get_xscale() == "log" and [bar.get_width() for bar in ax.patches] == [10, 50, 40]


def test_points_draws_every_seed_and_a_line_through_their_means():
    ax = plots.points(None, {"a": [(1, 2.0), (1, 4.0), (3, 5.0)]}, "x", "y", "t", {"floor": 0.5})
    means, seeds, floor = ax.lines
    assert means.get_xydata().tolist() == [[1, 3], [3, 5]]
    assert seeds.get_xydata().tolist() == [[1, 2], [1, 4], [3, 5]]
    assert set(floor.get_ydata()) == {0.5} and texts(ax) == ["floor", "a"]


def test_clouds_are_named_above_their_highest_dot_and_leave_blue_to_a_line():
    ax = plots.clouds(None, {"PPO": [(1, 2.0), (3, 5.0)], "DPO": [(2, 1.0)]}, "x", "y", "t")
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[1, 2], [3, 5]], [[2, 1]]]
    named = {text.get_text(): text.xy for text in ax.texts}
    assert named == {"PPO": (3, 5.0), "DPO": (2, 1.0)}
    assert plots.PALETTE["blue"] not in [line.get_color() for line in ax.lines]


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
