"""Every solution in a lesson makes its check say yes, every typical wrong answer makes it say no.

python -m pytest tests/test_exercises.py; the cells tagged `setup` run first, once per lesson, then
the code of a solution or a wrong answer, then the check cell.
"""

import ast
import contextlib
import functools
import io
import os
import re
from pathlib import Path
from typing import NamedTuple

import matplotlib
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests import lint
from tests.save import code_cells, tags
from tests.wrong_answers import WRONG_ANSWERS

matplotlib.use("Agg")
NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


class Exercise(NamedTuple):
    """One exercise of a lesson: its key, the code of its check, stub and solution."""

    lesson: Path
    key: str
    check: str
    stub: str
    solution: str


def exercises(lesson, notebook):
    """The Exercises of a notebook that obeys lint.completes_every_exercise."""
    starts = [n for n, cell in enumerate(notebook.cells) if "exercise" in tags(cell)]
    for start, end in zip(starts, [*starts[1:], None]):
        cells = notebook.cells[start:end]
        check = next(cell.source for cell in cells if "check" in tags(cell))
        solution = next(cell.source for cell in cells if "solution" in tags(cell))
        code = "\n".join(re.findall(r"(?ms)^```python\n(.*?)^```", solution))
        yield Exercise(lesson, key_of(check), check, cells[0].source, code)


def key_of(check):
    """The key in a check cell: "01.1" in check("01.1", answer)."""
    for node in ast.walk(ast.parse(check)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check":
            return ast.literal_eval(node.args[0])
    raise ValueError(f"no check(…) is called in the check cell: {check}")


def python(source):
    """The source without lines that only a notebook understands, such as %matplotlib inline."""
    return re.sub(r"(?m)^[%!].*$", "", source)


@contextlib.contextmanager
def working_in(folder):
    """A block whose current folder is `folder`, as it is a kernel's."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@functools.cache
def read(lesson):
    """The notebook at this path."""
    return lint.read(lesson)


@functools.cache
def setup_names(lesson):
    """What the set-up cells define, run as the lesson's kernel would: in the notebook's folder."""
    names = {"__name__": "__main__"}
    with working_in(lesson.parent), contextlib.redirect_stdout(io.StringIO()):
        for cell in code_cells(read(lesson)):
            if "setup" in tags(cell):
                exec(python(cell.source), names)
    return names


def verdict(exercise, answer):
    """The line that the check prints when `answer` stands in the stub."""
    names = dict(setup_names(exercise.lesson))
    printed = io.StringIO()
    with working_in(exercise.lesson.parent):
        exec(python(answer), names)
        with contextlib.redirect_stdout(printed):
            exec(python(exercise.check), names)
    return printed.getvalue().strip()


LESSONS = sorted(NOTEBOOKS.glob("*.ipynb"))
EXERCISES = {ex.key: ex for path in LESSONS for ex in exercises(path, read(path))}
WRONG = [(key, answer) for key, answers in WRONG_ANSWERS.items() for answer in answers]


@pytest.mark.parametrize("key", EXERCISES)
def test_the_solution_is_right(key):
    assert verdict(EXERCISES[key], EXERCISES[key].solution).startswith("yes")


@pytest.mark.parametrize("key", EXERCISES)
def test_the_stub_is_not_yet_an_answer(key):
    assert verdict(EXERCISES[key], EXERCISES[key].stub).startswith("not yet")


@pytest.mark.parametrize("key, answer", WRONG)
def test_a_typical_wrong_answer_is_wrong(key, answer):
    line = verdict(EXERCISES[key], answer)
    assert line.startswith("no: ") and "\n" not in line


def test_every_exercise_has_two_different_wrong_answers_and_no_others_exist():
    assert set(WRONG_ANSWERS) == set(EXERCISES)
    assert [key for key, answers in WRONG_ANSWERS.items() if len(set(answers)) < 2] == []


def test_no_two_exercises_share_a_key():
    keys = [ex.key for path in LESSONS for ex in exercises(path, read(path))]
    assert len(keys) == len(set(keys))


# --- proof, on a small lesson --------------------------------------------------------------------

SETUP = """
%matplotlib inline
def check(key, double):
    answer = double(3)
    print("not yet: write it" if answer is None else "yes" if answer == 6 else "no: 3 gives 6")
"""
SOLUTION = """<details>

```python
def double(x):
    return 2 * x
```

</details>"""


@pytest.fixture
def mini(tmp_path):
    """The exercise of a small lesson with a check of its own."""
    cells = [
        new_code_cell(SETUP, metadata={"tags": ["setup"]}),
        new_code_cell("raise SystemExit('not a set-up cell: never run')"),
        new_code_cell("def double(x):\n    ...", metadata={"tags": ["exercise"]}),
        new_code_cell("check('01.1', double)", metadata={"tags": ["check"]}),
        new_markdown_cell(SOLUTION, metadata={"tags": ["solution"]}),
    ]
    path = tmp_path / "lesson.ipynb"
    path.write_text(lint.nbformat.writes(new_notebook(cells=cells)))
    return next(exercises(path, read(path)))


def test_an_exercise_is_read_with_its_key_and_its_code(mini):
    assert mini.key == "01.1"
    assert mini.solution == "def double(x):\n    return 2 * x\n"


def test_a_solution_a_stub_and_a_wrong_answer_are_told_apart(mini):
    assert verdict(mini, mini.solution) == "yes"
    assert verdict(mini, mini.stub) == "not yet: write it"
    assert verdict(mini, "double = lambda x: x + 2") == "no: 3 gives 6"


def test_one_answer_does_not_leak_into_the_next(mini):
    verdict(mini, mini.solution)
    with pytest.raises(NameError):
        verdict(mini, "pass")
