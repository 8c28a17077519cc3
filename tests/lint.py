"""What a saved lesson must look like: rules that read the notebook's JSON and run nothing.

Each rule takes a notebook and returns complaints, sentences that name the cell and what to mend.
RULES lists them all; tests/test_lessons.py holds every lesson to every rule, and proves that each
rule can fail. `python -m tests.lint notebooks/01_*.ipynb` prints the complaints to an author.
"""

import re
import sys
from itertools import pairwise
from pathlib import Path
from statistics import quantiles

import nbformat

from tests.prose import unproven
from tests.save import METADATA, code_cells, fault, is_readable, tags

TAGS = {"setup", "exercise", "check", "solution", "figure", "widget", "slow", "raises-exception"}
TAGS |= {"real-text", "timing", "facts"}
MOST_BYTES = 1_000_000
REMOTE = re.compile(r"""!\[[^\]]*\]\(\s*https?:|<img\b[^>]*\bsrc\s*=\s*["']?https?:""", re.I)
NO_ALT = re.compile(r"!\[\s*\]\(|<img\b(?![^>]*\balt\s*=\s*[\"'][^\"'])[^>]*>", re.I)


def read(path):
    """The notebook exactly as the file has it: nothing repaired, no ids invented."""
    return nbformat.v4.reads(Path(path).read_text(encoding="utf-8"))


def markdown_cells(notebook):
    """The Markdown cells, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def without_code_blocks(markdown):
    """The text without its fenced code blocks, in which # is a comment."""
    return re.sub(r"(?ms)^\s*```.*?^\s*```\s*$", "", markdown)


# --- format -------------------------------------------------------------------------------------


def follows_nbformat_4_5(notebook):
    if (notebook.nbformat, notebook.nbformat_minor) != (4, 5):
        return [f"nbformat is {notebook.nbformat}.{notebook.nbformat_minor}, not 4.5"]
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        return [f"is no valid notebook: {error.message}"]
    return []


def was_run_once_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        return [f"execution counts are {counts}, not 1, 2, …: save with python -m tests.save"]
    return []


def has_readable_unique_ids(notebook):
    ids = [cell.get("id", "") for cell in notebook.cells]
    bad = [
        f"cell {n} has the id {i!r}: use words" for n, i in enumerate(ids, 1) if not is_readable(i)
    ]
    return bad + [f"the id {i!r} stands twice" for i in sorted(set(ids)) if ids.count(i) > 1]


def has_only_known_tags_as_metadata(notebook):
    found = []
    for cell in notebook.cells:
        found += [f"{cell.id}: unknown metadata {key!r}" for key in cell.metadata if key != "tags"]
        found += [f"{cell.id}: unknown tag {tag!r}" for tag in sorted(tags(cell) - TAGS)]
    if notebook.metadata != METADATA:
        found.append(f"the notebook's metadata is not {METADATA}: save with python -m tests.save")
    return found


def holds_only_words_and_code(notebook):
    raw = [cell for cell in notebook.cells if cell.cell_type not in ("markdown", "code")]
    return [f"{cell.id}: is a {cell.cell_type} cell, which nobody runs or checks" for cell in raw]


def times_what_it_tags_timing(notebook):
    """A timing cell's numbers are not compared, so the tag must not hide other numbers."""
    timing = [cell for cell in code_cells(notebook) if "timing" in tags(cell)]
    clock = re.compile(r"time|seconds")
    return [
        f"{c.id}: is tagged timing, times nothing" for c in timing if not clock.search(c.source)
    ]


def is_small(notebook):
    size = len(nbformat.writes(notebook).encode())
    return [f"takes {size:,} bytes, more than {MOST_BYTES:,}"] if size > MOST_BYTES else []


# --- outputs ------------------------------------------------------------------------------------


def has_no_faulty_outputs(notebook):
    cells = [cell for cell in code_cells(notebook) if cell.execution_count is not None]
    return [f"{cell.id}: {why}" for cell in cells if (why := fault(cell))]


def describes_every_figure(notebook):
    return [
        f"{cell.id}: a figure has no description: draw it through helpers.plots.show"
        for cell in code_cells(notebook)
        for out in cell.outputs
        if "image/png" in out.get("data", {}) and not is_described(out)
    ]


def is_described(out):
    """True when text/plain is a description, and the picture's alternative text is the same."""
    text = out.data.get("text/plain", "")
    alt = out.metadata.get("image/png", {}).get("alt", "")
    return bool(text.strip()) and text == alt and not text.startswith("<Figure")


def loads_nothing_remote(notebook):
    texts = [(cell.id, cell.source) for cell in markdown_cells(notebook)]
    for cell in code_cells(notebook):
        for out in cell.outputs:
            data = out.get("data", {})
            texts.append((cell.id, data.get("text/html", "") + data.get("text/markdown", "")))
    return [f"{name}: shows a picture from the network" for name, t in texts if REMOTE.search(t)]


def gives_every_image_an_alternative_text(notebook):
    cells = markdown_cells(notebook)
    return [f"{cell.id}: an image has no alt text" for cell in cells if NO_ALT.search(cell.source)]


# --- words and rhythm ---------------------------------------------------------------------------


def headings(notebook):
    """Pairs (cell id, level) of all Markdown headings, in order."""
    for cell in markdown_cells(notebook):
        for marks in re.findall(r"(?m)^ {0,3}(#{1,6}) ", without_code_blocks(cell.source)):
            yield cell.id, len(marks)


def has_one_title_and_skips_no_heading_level(notebook):
    found = list(headings(notebook))
    complaints = []
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        complaints.append("the first cell does not start with the title, '# …'")
    if [level for _, level in found].count(1) != 1:
        complaints.append("there is not exactly one heading with a single #")
    for (_, above), (name, level) in pairwise(found):
        if level > above + 1:
            complaints.append(f"{name}: a heading of level {level} under one of level {above}")
    return complaints


def has_30_to_60_cells(notebook):
    count = len(notebook.cells)
    return [] if 30 <= count <= 60 else [f"has {count} cells, not 30 to 60"]


def code_lines(cell):
    """How many lines of the cell are not blank."""
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def keeps_code_cells_short(notebook):
    lengths = {cell.id: code_lines(cell) for cell in code_cells(notebook)}
    found = [f"{name}: {n} lines of code, more than 40" for name, n in lengths.items() if n > 40]
    if len(lengths) > 1 and quantiles(lengths.values(), n=10, method="inclusive")[-1] > 20:
        found.append("more than a tenth of the code cells have over 20 lines")
    return found


def puts_words_between_code_cells(notebook):
    return [
        f"{below.id}: no words between it and {above.id}, and it has more than 3 lines"
        for above, below in pairwise(notebook.cells)
        if above.cell_type == below.cell_type == "code" and code_lines(below) > 3
    ]


# --- exercises ----------------------------------------------------------------------------------


def completes_every_exercise(notebook):
    starts = [n for n, cell in enumerate(notebook.cells) if "exercise" in tags(cell)]
    ends = [*starts[1:], len(notebook.cells)]
    found = []
    for start, end in zip(starts, ends):
        cells = notebook.cells[start:end]
        found += [f"{cells[0].id}: {what}" for what in missing_parts(cells)]
    return found


def missing_parts(cells):
    """What lacks in an exercise: the cells from its stub to the next stub."""
    code = [cell for cell in cells if cell.cell_type == "code"]
    check = code[1] if len(code) > 1 and "check" in tags(code[1]) else None
    if cells[0].cell_type != "code" or check is None:
        yield "the next code cell after an exercise is not its check"
    elif not any(out.get("text", "").startswith("not yet") for out in check.outputs[:1]):
        yield f"the stored output of {check.id} does not start with 'not yet'"
    solutions = [cell.source for cell in cells if "solution" in tags(cell)]
    if not any("<details>" in text and "```python" in text for text in solutions):
        yield "no Markdown cell tagged solution with <details> and a ```python block follows"


# --- all ----------------------------------------------------------------------------------------


def has_only_true_numbers_in_its_prose(notebook):
    return unproven(notebook)


RULES = [
    follows_nbformat_4_5,
    was_run_once_from_top_to_bottom,
    has_readable_unique_ids,
    has_only_known_tags_as_metadata,
    holds_only_words_and_code,
    times_what_it_tags_timing,
    is_small,
    has_no_faulty_outputs,
    describes_every_figure,
    loads_nothing_remote,
    gives_every_image_an_alternative_text,
    has_one_title_and_skips_no_heading_level,
    has_30_to_60_cells,
    keeps_code_cells_short,
    puts_words_between_code_cells,
    completes_every_exercise,
    has_only_true_numbers_in_its_prose,
]


def main(paths):
    """Print every complaint about every notebook; returns how many there are."""
    found = [(path, what) for path in paths for rule in RULES for what in rule(read(path))]
    for path, what in found:
        print(f"{Path(path).name}: {what}")
    return len(found)


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
