"""Every lesson obeys every rule of tests/lint.py, and every rule can fail.

python -m pytest tests/test_lessons.py; nothing is run here: the comparer runs the notebooks.
"""

from pathlib import Path

import pytest
from nbformat.v4 import (
    new_code_cell,
    new_markdown_cell,
    new_notebook,
    new_output,
)

from tests import lint
from tests.prose import claims, unproven
from tests.save import METADATA

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("*.ipynb"))


def test_the_first_two_lessons_are_there():
    names = [path.name[:3] for path in LESSONS]
    assert {"01_", "02_"} <= set(names)


@pytest.mark.parametrize("rule", lint.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson(path, rule):
    complaints = rule(lint.read(path))
    assert not complaints, "\n".join([f"{path.name}:", *complaints])


# --- the rules can fail --------------------------------------------------------------------------


def markdown(name, source, *tags):
    """A Markdown cell."""
    return new_markdown_cell(source, id=name, metadata={"tags": list(tags)} if tags else {})


def code(name, source, *tags, outputs=()):
    """A code cell that was run; its count comes later."""
    metadata = {"tags": list(tags)} if tags else {}
    return new_code_cell(source, id=name, metadata=metadata, outputs=list(outputs))


def said(text, name="stdout"):
    """A stream output."""
    return new_output("stream", name=name, text=text)


def figure():
    """A described figure."""
    data = {"image/png": "AAAA", "text/plain": "loss falls to 2.31"}
    return new_output("display_data", data, metadata={"image/png": {"alt": data["text/plain"]}})


def good_lesson():
    """A lesson without a fault: its cells by name, in order."""
    solution = "<details>\n\n```python\n# answer\ndouble = lambda x: 2 * x\n```\n\n</details>"
    cells = [
        markdown("title", "# 01 Tokenization"),
        code("setup", "import math", "setup"),
        markdown("section", "## Why?\n\n```\n# no heading\n```\nThe loss falls to 2.3:"),
        code("plot", "show(fig)", outputs=[figure()]),
        markdown("picture", "![the merge tree](../assets/tree.png)"),
        code("crash", "1 / 0", "raises-exception", outputs=[new_output("error", ename="E")]),
        code("stub", "def double(x): ...", "exercise"),
        code("check", "check('01.1', double)", "check", outputs=[said("not yet: write it")]),
        markdown("solution", solution, "solution"),
        *[markdown(f"word-{n}", "word") for n in "abcdefghijklmnopqrstuvw"],
    ]
    notebook = new_notebook(cells=cells, metadata=METADATA)
    for count, cell in enumerate(lint.code_cells(notebook), 1):
        cell.execution_count = count
    return notebook


@pytest.mark.parametrize("rule", lint.RULES, ids=lambda rule: rule.__name__)
def test_a_good_lesson_has_no_complaints(rule):
    assert rule(good_lesson()) == []


FAULTS = {
    "notebook.nbformat_minor = 4": "follows_nbformat_4_5",
    "cell['setup'].pop('outputs')": "follows_nbformat_4_5",
    "cell['plot'].execution_count = 7": "was_run_once_from_top_to_bottom",
    "cell['setup'].execution_count = None": "was_run_once_from_top_to_bottom",
    "cell['plot'].id = '3fa85f64'": "has_readable_unique_ids",
    "cell['plot'].id = 'd9b2d63d-a233-4123-847a-7090f93e9a1d'": "has_readable_unique_ids",
    "cell['plot'].id = 'Plot 1'": "has_readable_unique_ids",
    "cell['plot'].id = 'setup'": "has_readable_unique_ids",
    "cell['plot'].metadata['collapsed'] = True": "has_only_known_tags_as_metadata",
    "cell['plot'].metadata['tags'] = ['tol-0.05']": "has_only_known_tags_as_metadata",
    "notebook.metadata['widgets'] = {}": "has_only_known_tags_as_metadata",
    "notebook.metadata.kernelspec.name = 'mine'": "has_only_known_tags_as_metadata",
    "cell['plot'].cell_type = 'raw'": "holds_only_words_and_code",
    "cell['plot'].metadata['tags'] = ['timing']": "times_what_it_tags_timing",
    "cell['title'].source += 'x' * 1_000_000": "is_small",
    "cell['setup'].outputs = [said('careful', 'stderr')]": "has_no_faulty_outputs",
    "cell['crash'].metadata['tags'] = []": "has_no_faulty_outputs",
    "cell['crash'].outputs = []": "has_no_faulty_outputs",
    "cell['plot'].outputs[0].metadata = {}": "describes_every_figure",
    "cell['plot'].outputs[0].data.pop('text/plain')": "describes_every_figure",
    "cell['plot'].outputs[0].data['text/plain'] = 'another'": "describes_every_figure",
    "cell['picture'].source = '![tree](https://a.org/b.png)'": "loads_nothing_remote",
    "cell['picture'].source = '<img alt=\"t\" src=\"http://a.org/b\">'": "loads_nothing_remote",
    "cell['picture'].source = '![](b.png)'": "gives_every_image_an_alternative_text",
    "cell['picture'].source = '<img src=\"b.png\">'": "gives_every_image_an_alternative_text",
    "cell['title'].source = 'Tokens'": "has_one_title_and_skips_no_heading_level",
    "cell['section'].source = '# Two'": "has_one_title_and_skips_no_heading_level",
    "cell['section'].source = '### Three'": "has_one_title_and_skips_no_heading_level",
    "notebook.cells = notebook.cells[:29]": "has_30_to_60_cells",
    "notebook.cells += 30 * [cell['title']]": "has_30_to_60_cells",
    "cell['plot'].source = 41 * 'a\\n\\n'": "keeps_code_cells_short",
    "cell['plot'].source = cell['setup'].source = 21 * 'a\\n'": "keeps_code_cells_short",
    "cell['stub'].source = 4 * 'a\\n'": "puts_words_between_code_cells",
    "cell['check'].metadata['tags'] = []": "completes_every_exercise",
    "cell['check'].outputs = [said('yes: well done')]": "completes_every_exercise",
    "cell['check'].outputs = []": "completes_every_exercise",
    "cell['solution'].metadata['tags'] = []": "completes_every_exercise",
    "cell['solution'].source = '<details>see the book</details>'": "completes_every_exercise",
    "cell['section'].source = 'The loss falls to 2.4.'": "has_only_true_numbers_in_its_prose",
}


@pytest.mark.parametrize("fault, rule", FAULTS.items(), ids=FAULTS)
def test_a_fault_is_found_by_its_rule(fault, rule):
    notebook = good_lesson()
    exec(fault, {"notebook": notebook, "cell": {c.id: c for c in notebook.cells}, "said": said})
    assert getattr(lint, rule)(notebook)


def test_every_rule_has_a_fault_that_it_finds():
    assert {rule.__name__ for rule in lint.RULES} == set(FAULTS.values())


def test_a_missing_id_is_not_invented_by_the_reader(tmp_path):
    path = tmp_path / "lesson.ipynb"
    path.write_text(
        '{"cells": [{"cell_type": "markdown", "metadata": {}, "source": ["# A"]}],'
        ' "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    )
    assert lint.has_readable_unique_ids(lint.read(path))


# --- numbers in prose ----------------------------------------------------------------------------


def lesson_saying(prose, shown="", source="", *tags):
    """A lesson of one Markdown cell and one code cell with one output."""
    return new_notebook(
        cells=[markdown("words", prose, *tags), code("cell", source, outputs=[said(shown)])]
    )


@pytest.mark.parametrize(
    "prose, shown",
    [
        ("the loss is 2.31 nats", "loss 2.3145"),
        ("it falls by 0.50", "change -0.4961"),
        ("37% of them", "0.3658"),
        ("36.6 % of them", "0.3658"),
        ("36.6 percent of them", "36.58%"),
        ("a share of 0.37", "36.58%"),
        ("1,234,567 tokens", "1234567"),
        ("50257 rows", "50,257"),
        ("5.06 million characters", "5,062,345"),
        ("0.5M parameters", "523,776"),
        ("about 905,000 words", "905,123 words"),
        ("a step of 1e-3", "0.001"),
        ("**2.31**, `2.31` and $2.31$", "2.3145"),
    ],
)
def test_a_number_is_proven_by_one_that_rounds_to_it(prose, shown):
    assert claims(prose)
    assert unproven(lesson_saying(prose, shown)) == []


@pytest.mark.parametrize(
    "prose, shown",
    [
        ("the loss is 2.31 nats", "loss 2.3253"),
        ("the loss is 2.31 nats", "loss 2.3"),
        ("37% of them", "0.3758"),
        ("0.37 of them", "37 of them"),
        ("905,000 words", "905,123 words"),
        ("about 905,000 words", "905,623 words"),
        ("5.06 million characters", "5,072,345"),
        ("\N{MINUS SIGN}0.5 nats", "0.6"),
        ("2048 tokens", "2049"),
        ("12.5", "no number"),
    ],
)
def test_a_number_that_nothing_shows_is_a_complaint(prose, shown):
    assert len(unproven(lesson_saying(prose, shown))) == 1


@pytest.mark.parametrize(
    "prose",
    [
        "Llama 3.1 and GPT-3.5, Python 3.11, CC BY 4.0",
        "Sections 4.2, 4.3 and 5.1; Exercise 1.2: loops; § 3.4",
        "Sennrich et al. (2016), arXiv:1508.07909",
        "[the paper](https://arxiv.org/abs/1706.03762) and https://a.org/1706.03762",
        "```python\nx = 0.123\n```",
        "12 merges in 3 steps, version 1.2.3",
        "<span style='width:12.5px'>wide</span>",
    ],
)
def test_names_years_links_code_and_small_numbers_claim_nothing(prose):
    assert claims(prose) == []


def test_code_proves_too():
    source = "lr, n = 3e-4, 1_000_000"
    assert unproven(lesson_saying("a rate of 0.0003 on 1,000,000", source=source)) == []


def test_html_and_figures_prove_by_their_words_and_not_by_their_tags():
    notebook = lesson_saying("2.31 and 4.75, but not 9.99")
    table = new_output("display_data", {"text/html": "<td width='9.99'>4.75</td>"})
    notebook.cells[1].outputs = [figure(), table]
    [complaint] = unproven(notebook)
    assert "9.99»" in complaint


def test_a_table_of_sourced_facts_is_believed():
    assert unproven(lesson_saying("15.6 trillion tokens [1]", "", "", "facts")) == []


def test_a_complaint_names_the_cell_and_quotes_the_number():
    [complaint] = unproven(lesson_saying("Here the loss is 2.31 nats."))
    assert complaint.startswith("words: ") and "the loss is 2.31 nats" in complaint
