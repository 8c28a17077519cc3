"""pytest plugin: `pytest --nbval` strict about staleness and lenient about float noise.

nbval collects and has the options; each notebook is run whole, once, by `run` of tests/save.py, and
every code cell is a test that compares what the cell shows now with what the file shows:

* text between numbers must be equal once runs of blanks are folded; integers must be equal;
* decimal numbers may differ by one part in 1,000, or by one unit in the last printed place where at
  least three significant digits are printed (0.123 = 0.124, 12.5 = 12.6; but 0.1 is not 0.2);
* images must be there, their pixels are not compared (plots.show puts their numbers into text);
  nor is what a widget's callback draws, but an error inside a callback is the cell's error;
* a cell saved without being run, out of order, or with text on stderr fails.

Cell tags: `timing` compares the text only, numbers must be finite and in the same places;
`real-text` skips the comparison, not the run, where a source named in the notebook cannot be had.
Weak spots: a figure wrong in the pixels only; a relative error up to 1/100 in a three-digit number.
"""

import json
import math
import re
from itertools import zip_longest

import nbformat
import pytest
from nbval.plugin import IPyNbFile

from tests.named_sources import fetch_named, missing_sources
from tests.save import code_cells, fault, run, tags, tidy

RTOL = 1e-3
NUMBER = re.compile(
    r"""(?<![\w.#])            # not inside a word, a version or a colour
    [-+]?
    (?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)? | [0-9]+(?:\.[0-9]+)? | \.[0-9]+)
    (?:[eE][-+]?[0-9]+\b)?""",
    re.VERBOSE,
)
NOT_FINITE = re.compile(r"\b(?:nan|inf|infinity)\b", re.IGNORECASE)


# --- comparing two texts ------------------------------------------------------------------------


def is_integer(number):
    """True for a number printed without point or exponent."""
    return re.fullmatch(r"[-+]?[0-9,]+", number) is not None


def significant_digits(number):
    """How many digits are printed from the first that is not zero: 0.0120 has 3."""
    mantissa = re.split("[eE]", number)[0]
    return len(re.sub("[^0-9]", "", mantissa).lstrip("0"))


def last_place(number):
    """The value of one unit in the last printed digit: 0.01 for 3.14, 100 for 1.5e3."""
    mantissa, _, exponent = number.lower().partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def close(stored, fresh):
    """True when two printed numbers agree by the rules above."""
    if stored == fresh:
        return True
    if is_integer(stored) or is_integer(fresh):
        return False
    a, b = (float(number.replace(",", "")) for number in (stored, fresh))
    allowed = RTOL * max(abs(a), abs(b))
    if max(significant_digits(stored), significant_digits(fresh)) >= 3:
        # A hair more than one unit, because 0.124 - 0.123 is not exactly 0.001 in binary.
        allowed = max(allowed, 1.001 * min(last_place(stored), last_place(fresh)))
    return abs(a - b) <= allowed


def same(stored, fresh, timing=False):
    """True when two texts agree; with `timing`, whatever their numbers are, if finite."""
    if words_between(stored) != words_between(fresh):
        return False
    if timing:
        return all_finite(fresh)
    return all(map(close, NUMBER.findall(stored), NUMBER.findall(fresh)))


def words_between(text):
    """The pieces of text between the numbers, runs of blanks folded."""
    return [" ".join(piece.split()) for piece in NUMBER.split(text)]


def all_finite(text):
    """True when the text holds no nan and no infinity, spelt or as a number too large."""
    values = (float(number.replace(",", "")) for number in NUMBER.findall(text))
    return not NOT_FINITE.search(text) and all(map(math.isfinite, values))


# --- comparing two cells ------------------------------------------------------------------------


def shown(cell):
    """What a cell shows, in order: pairs of a kind and its text (for an image, no text)."""
    pairs = []
    for out in tidy(cell.outputs):
        if out.output_type == "stream":
            pairs.append((out.name, out.text))
        elif out.output_type == "error":
            pairs.append(("error", f"{out.ename}: {out.evalue}"))
        else:
            pairs += sorted((kind, as_text(kind, data)) for kind, data in out.data.items())
    return pairs


def as_text(kind, data):
    """One output's data as text to compare; pixels are not, and Output widgets' ids never agree."""
    if kind in ("image/png", "image/jpeg"):
        return ""
    text = data if isinstance(data, str) else json.dumps(data, sort_keys=True)
    return re.sub(r"IPY_MODEL_\w+|msg_id='[^']*'", "ID", text)


def difference(stored, fresh, timing=False):
    """None when two lists of pairs agree, else a few lines that say where they do not."""
    kinds = [[kind for kind, _ in pairs] for pairs in (stored, fresh)]
    if kinds[0] != kinds[1]:
        return "\n".join(
            f"  {label}{', '.join(names) or 'no output'}"
            for label, names in zip(("expected  ", "got       "), kinds)
        )
    for (kind, expected), (_, got) in zip(stored, fresh):
        if not same(expected, got, timing):
            return f"{kind} differs:\n{differing_lines(expected, got, timing)}"
    return None


def differing_lines(expected, got, timing, most=4):
    """The first lines that disagree, expected above got."""
    old, new = expected.splitlines(), got.splitlines()
    lines = []
    if len(old) != len(new):
        lines.append(f"  expected {len(old)} lines, got {len(new)}")
    pairs = zip_longest(old, new, fillvalue="(no line)")
    pairs = [pair for pair in pairs if not same(*pair, timing)]
    for a, b in pairs[:most]:
        start = max(0, first_difference(a, b) - 60)
        lines += [f"  expected  {excerpt(a, start)}", f"  got       {excerpt(b, start)}"]
    if len(pairs) > most:
        lines.append(f"  and {len(pairs) - most} more lines")
    return "\n".join(lines)


def first_difference(a, b):
    """The position of the first character in which two texts differ."""
    return next((i for i, pair in enumerate(zip(a, b)) if pair[0] != pair[1]), min(len(a), len(b)))


def excerpt(line, start, width=120):
    """The line from `start` on, cut to what fits on a screen."""
    end = start + width
    return "…" * (start > 0) + line[start:end] + "…" * (end < len(line))


# --- pytest -------------------------------------------------------------------------------------


class Lesson(pytest.File):
    """A notebook; its code cells are the tests, named by their ids."""

    def collect(self):
        self.stored = nbformat.read(self.path, as_version=4)
        self.fresh = nbformat.read(self.path, as_version=4)
        for stored, fresh in zip(code_cells(self.stored), code_cells(self.fresh)):
            yield LessonCell.from_parent(self, name=stored.id, stored=stored, fresh=fresh)

    def setup(self):
        """Run all of it first: a later cell may update what an earlier one displayed."""
        self.missing = missing_sources(self.stored)
        run(self.fresh, self.path.parent, self.config.option.nbval_cell_timeout)


class LessonCell(pytest.Item):
    """One code cell: what is stored in the file against what the fresh run gave."""

    def __init__(self, stored, fresh, **kwargs):
        super().__init__(**kwargs)
        self.stored, self.fresh = stored, fresh

    def runtest(self):
        if self.stored.execution_count is None:
            self.fail("was saved without being run")
        if self.fresh.execution_count is None:
            self.fail("did not finish: it or a cell above ran out of time, or the kernel died")
        if why := fault(self.fresh):
            self.fail(why, traceback(self.fresh))
        if "real-text" in tags(self.stored) and (missing := ", ".join(self.parent.missing)):
            why = f"ran, but was not compared: {missing} cannot be had here"
            raise pytest.skip.Exception(why, _use_item_location=True)
        if why := fault(self.stored):
            self.fail(f"was saved when it {why}")
        self.compare()

    def compare(self):
        counts = self.stored.execution_count, self.fresh.execution_count
        if counts[0] != counts[1]:
            self.fail("was saved as number {} of its run, and is number {}".format(*counts))
        timing = "timing" in tags(self.stored)
        if details := difference(shown(self.stored), shown(self.fresh), timing):
            self.fail("shows something else than what is saved", details)

    def fail(self, why, details=""):
        code = "\n".join(f"    {line}" for line in self.stored.source.splitlines()[:8])
        message = f"{self.path.name}, cell {self.name}: {why}\n{code}\n{details}"
        pytest.fail(message.rstrip(), pytrace=False)

    def reportinfo(self):
        return self.path, 0, f"{self.path.name}: cell {self.name}"


def traceback(cell, most=12):
    """The last lines of the cell's traceback, without colours."""
    frames = [frame for out in cell.outputs for frame in out.get("traceback", [])]
    lines = "\n".join(frames).splitlines()[-most:]
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines))


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    """Where nbval collects a notebook, collect a Lesson in its stead."""
    found = yield
    lesson = [Lesson.from_parent(parent, path=file_path) for c in found if isinstance(c, IPyNbFile)]
    return lesson + [c for c in found if not isinstance(c, IPyNbFile)]


def pytest_collection_finish(session):
    """Fetch what the collected notebooks name, if any were collected to be run."""
    lessons = {item.parent for item in session.items if isinstance(item, LessonCell)}
    if not session.config.option.collectonly:
        fetch_named([lesson.stored for lesson in lessons])
