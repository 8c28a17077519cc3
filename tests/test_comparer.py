"""Proof that the comparer fails when it must and only then: python -m pytest tests/test_comparer.py

One small notebook is saved with tests/save.py. Copies of it, each cell spoilt in its own way, go
through one run of pytest with the project's own settings; the tests then look up what it said.
"""

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from textwrap import dedent
from xml.etree import ElementTree

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests import save
from tests.comparer import close, difference, same

ROOT = Path(__file__).resolve().parents[1]

# --- the rules, on texts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stored, fresh",
    [
        ("loss 1.2345", "loss 1.2346"),
        ("loss 12345.6", "loss 12350.1"),
        ("1.234e-05", "1.235e-05"),
        ("rate 0.123", "rate 0.124"),
        ("1,234.5 tokens", "1,235.5 tokens"),
        ("acc 0.500", "acc 0.499"),
        ("[ 0.500  1.000]", "[0.500 1.000]"),
        ("0.000", "-0.000"),
        ("step 10\nstep 20", "step 10\n step 20\n"),
    ],
)
def test_float_noise_and_blanks_are_tolerated(stored, fresh):
    assert same(stored, fresh) and same(fresh, stored)


@pytest.mark.parametrize(
    "stored, fresh",
    [
        ("acc 0.1", "acc 0.2"),
        ("acc 0.12", "acc 0.13"),
        ("loss 1.234", "loss 1.237"),
        ("loss 0.001", "loss 0.002"),
        ("loss 1.23", "loss -1.23"),
        ("5000 tokens", "5001 tokens"),
        ("1,000,000", "1,000,001"),
        ("Run 1000. Done", "Run 1001. Done"),
        ("3", "3.0"),
        ("loss 1.23", "loss 1.23 nats"),
        ("loss 1.23", "loss 1.23 4.56"),
        ("[' the']", "['the']"),
        ("version v1.2000", "version v1.2001"),
        ("#120000", "#120001"),
        ("loss 1.23", "loss nan"),
    ],
)
def test_real_differences_are_seen(stored, fresh):
    assert not same(stored, fresh) and not same(fresh, stored)


def test_the_last_place_counts_only_from_three_significant_digits():
    assert close("9.99", "10.0") and close("0.0123", "0.0124")
    assert not close("9.9", "9.8") and not close("0.0012", "0.0013")


def test_a_coarser_print_does_not_widen_the_tolerance():
    assert not close("0.5", "0.512")
    assert close("0.5", "0.501")


def test_timing_compares_words_and_places_but_no_numbers():
    assert same("BPE 1.25 s, 40 MB", "BPE 13.9 s, 7 MB", timing=True)
    assert same("12,345 tokens/s", "980 tokens/s", timing=True)
    assert not same("BPE 1.25 s", "BPE 1250 ms", timing=True)
    assert not same("BPE 1.25 s", "BPE nan s", timing=True)
    assert not same("BPE nan s", "BPE nan s", timing=True)
    assert not same("BPE 1.25 s", "BPE 1e999 s", timing=True)


def test_a_difference_shows_the_line_where_it_is():
    said = difference([("stdout", "a 1\nb 2\nc 3")], [("stdout", "a 1\nb 5\nc 3")])
    assert said.splitlines() == ["stdout differs:", "  expected  b 2", "  got       b 5"]


def test_a_difference_far_into_a_long_line_is_shown():
    said = difference([("stdout", "x " * 500 + "2")], [("stdout", "x " * 500 + "5")])
    assert [line[-3:] for line in said.splitlines()[1:]] == ["x 2", "x 5"]


# --- the rules, on a notebook run by pytest ------------------------------------------------------

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4DwAB"
    "BAEAX+XDSwAAAABJRU5ErkJggg=="
)

CELLS = {
    "setup": """
        import time
        from IPython.display import HTML, Markdown, clear_output, display
        import ipywidgets
        """,
    "number": "print('loss 1.2345')",
    "value": "{'rate': 1 / 3}",
    "words": "print('the cat sat')",
    "code": "print('tokens', 5 * 8)",
    "html": "HTML('<b>5</b> merges')",
    "markdown": "display(Markdown('**37** pairs'))",
    "image": f"""
        picture = {{"image/png": "{PIXEL}", "text/plain": "rising from 1.25 to 7.50"}}
        display(picture, raw=True)
        """,
    "pixels": f"display({{'image/png': '{PIXEL}', 'text/plain': 'flat'}}, raw=True)",
    "stripped": "print('here')",
    "unrun": "print('here too')",
    "silent": "nothing = None",
    "expected-error": "raise ValueError('no such story')",
    "other-error": "raise ValueError('no such world')",
    "new-error": "print('as ever')",
    "timing": "print(f'{time.perf_counter():.2f} s for', time.perf_counter_ns(), 'tokens')",
    "timing-words": "print(f'{time.perf_counter():.2f} s')",
    "chunks": """
        for i in range(3):
            print('chunk', i, flush=True)
            time.sleep(0.02)
        """,
    "order": "print('before'); display('between'); print('after')",
    "progress": "print('0 %', end='\\r'); print('100 %')",
    "cleared": """
        for i in range(3):
            clear_output(wait=True)
            print('step', i)
        """,
    "updated": "handle = display('first', display_id=True); handle.update('second')",
    "updated-later": "live = display('step 0', display_id=True)",
    "updating": "live.update('step 99')",
    "interact": """
        @ipywidgets.interact(n=(0, 9))
        def double(n=4):
            print('callback says', 2 * n)
        """,
    "slider": "ipywidgets.IntSlider(value=7)",
    "captured": """
        box = ipywidgets.Output()
        with box:
            print('inside')
        box
        """,
    "callback": """
        fine = True
        def draw(n=1):
            if not fine: raise ValueError('in the callback')
        ipywidgets.interact(draw);
        """,
    "real-text": "print('905,123 words')  # as if from sources.text('porttinari')",
    "stderr": "print('quiet')",
    "last": "print('end')",
}
TAGS = {
    "expected-error": "raises-exception",
    "other-error": "raises-exception",
    "timing": "timing",
    "timing-words": "timing",
    "real-text": "real-text",
}


def mini_notebook():
    """A notebook of CELLS, not yet run."""
    cells = []
    for name, source in CELLS.items():
        cell = new_code_cell(dedent(source).strip(), id=name)
        cell.metadata = {"tags": [TAGS[name]]} if name in TAGS else {}
        cells.append(cell)
    return new_notebook(cells=cells)


def spoil(cells):
    """Each kind of staleness, at a cell of its own."""

    def output(name):
        return cells[name].outputs[0]

    output("number").text = "loss 1.2395\n"
    output("value").data["text/plain"] = "{'rate': 0.3433333333333333}"
    output("words").text = "the cat sits\n"
    cells["code"].source = "print('tokens', 5 * 9)"
    output("html").data["text/html"] = "<b>6</b> merges"
    output("markdown").data["text/markdown"] = "**38** pairs"
    del output("image").data["image/png"]
    output("pixels").data["text/plain"] = "steep"
    cells["stripped"].outputs = []
    cells["unrun"].execution_count, cells["unrun"].outputs = None, []
    cells["silent"].execution_count = 3
    cells["expected-error"].source = "print('no error any more')"
    output("other-error").evalue = "no such moon"
    cells["new-error"].source = "1 / 0"
    cells["timing-words"].source = "print(f'{time.perf_counter():.2f} ms')"
    output("chunks").text = "chunk 0\nchunk 1\n"
    cells["order"].outputs.reverse()
    output("progress").text = "99 %\n"
    output("cleared").text = "step 1\n"
    output("updated").data["text/plain"] = "'first'"
    output("updated-later").data["text/plain"] = "'step 0'"
    output("interact").data["text/plain"] = output("interact").data["text/plain"].replace("4", "5")
    output("slider").data["text/plain"] = "IntSlider(value=8)"
    cells["captured"].source = "box = 3\nbox"
    cells["callback"].source = cells["callback"].source.replace("True", "False")
    # Without the comment the notebook leans on no source any more: this cell is compared.
    cells["real-text"].source = "print('905,124 words')"
    cells["stderr"].source += "\nimport sys; print('loud', file=sys.stderr)"


def disturb(cells):
    """What must be forgiven: noise in decimals, times, pixels, ids, chunks of stdout."""
    cells["number"].outputs[0].text = "loss 1.2346\n"
    cells["value"].outputs[0].data["text/plain"] = "{'rate': 0.3333333333333371}"
    cells["image"].outputs[0].data["text/plain"] = "rising from 1.26 to 7.50"
    cells["pixels"].outputs[0].data["image/png"] = "AAAA"
    cells["timing"].outputs[0].text = "0.01 s for 123 tokens\n"
    cells["slider"].outputs[0].data[save.WIDGET] = {"model_id": "another"}
    cells["words"].outputs = [deepcopy(cells["words"].outputs[0]) for _ in range(2)]
    cells["words"].outputs[0].text, cells["words"].outputs[1].text = "the cat", " sat\n"
    cells["expected-error"].outputs[0].traceback = ["another"]


def strip(cells):
    """What nbstripout does."""
    for cell in cells.values():
        cell.execution_count, cell.outputs = None, []


def kill(cells):
    """A kernel that dies half-way."""
    cells["markdown"].source = "import os; os._exit(1)"


def copy_of(notebook, change, path):
    """Write a changed copy of the notebook; returns the names of the cells that differ."""
    notebook = deepcopy(notebook)
    before = deepcopy(notebook.cells)
    change({cell.id: cell for cell in notebook.cells})
    nbformat.write(notebook, path)
    return {old.id for old, new in zip(before, notebook.cells) if old != new}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The mini notebook as tests/save.py leaves it: its path."""
    path = tmp_path_factory.mktemp("saved") / "clean.ipynb"
    nbformat.write(mini_notebook(), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(save, "missing_sources", lambda _: [])
        save.save(path)
    return path


@pytest.fixture(scope="module")
def verdicts(saved):
    """What pytest said: {copy: {cell: "passed" | "failed" | "skipped"}}, the changes, the text."""
    notebook = nbformat.read(saved, as_version=4)
    changed = {
        change.__name__: copy_of(notebook, change, saved.with_name(f"{change.__name__}.ipynb"))
        for change in (spoil, disturb, strip, kill)
    }
    text, report = run_pytest(saved.parent)
    said = {}
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = {"failure": "failed", "skipped": "skipped"}
        found = [outcome[child.tag] for child in case if child.tag in outcome]
        copy = case.get("classname").split(".")[-2]
        said.setdefault(copy, {})[case.get("name")] = found[0] if found else "passed"
    return said, changed, text


def run_pytest(folder):
    """Run pytest on a folder with the project's settings; returns its text and its XML report."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), str(folder)]
    options = ["-p", "no:cacheprovider", "--color=no", f"--junitxml={report}"]
    environment = {**os.environ, "COURSE_OFFLINE": "1", "COURSE_CACHE": str(folder / "none")}
    environment.pop("COURSE_WHEELHOUSE", None)
    done = subprocess.run(
        command + options, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert report.exists(), done.stdout + done.stderr
    return done.stdout, report


EXPECTED = {name: "skipped" if name == "real-text" else "passed" for name in CELLS}


def test_a_freshly_saved_notebook_passes(verdicts):
    assert verdicts[0]["clean"] == EXPECTED


def test_noise_is_forgiven(verdicts):
    said, changed, _ = verdicts
    assert len(changed["disturb"]) == 8
    assert said["disturb"] == EXPECTED


def test_every_kind_of_staleness_fails_at_its_cell_and_nowhere_else(verdicts):
    said, changed, _ = verdicts
    assert len(changed["spoil"]) == 27
    failed = {name for name, verdict in said["spoil"].items() if verdict == "failed"}
    assert failed == changed["spoil"]


def test_a_notebook_stripped_of_its_outputs_fails_at_every_cell(verdicts):
    assert set(verdicts[0]["strip"].values()) == {"failed"}


def test_a_dead_kernel_fails_from_there_on(verdicts):
    names = list(CELLS)
    at = names.index("markdown")
    said = verdicts[0]["kill"]
    assert {said[name] for name in names[:at]} == {"passed"}
    assert {said[name] for name in names[at:]} == {"failed"}


def test_a_failure_shows_the_cell_what_was_expected_and_what_came(verdicts):
    text = verdicts[2]
    assert "spoil.ipynb, cell number: shows something else than what is saved" in text
    assert "  expected  loss 1.2395\n  got       loss 1.2345\n" in text
    assert "spoil.ipynb, cell callback: raised ValueError: in the callback" in text
    assert "spoil.ipynb, cell stderr: wrote on stderr: loud" in text


# --- saving --------------------------------------------------------------------------------------


def test_a_saved_notebook_holds_no_widget_state_no_paths_and_counts_from_one(saved):
    notebook = nbformat.read(saved, as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    assert notebook.metadata == save.METADATA
    assert [cell.execution_count for cell in notebook.cells] == list(range(1, len(CELLS) + 1))
    assert save.WIDGET not in saved.read_text()
    assert cells["expected-error"].outputs[0].traceback == ["ValueError: no such story"]
    assert [out.text for out in cells["chunks"].outputs] == ["chunk 0\nchunk 1\nchunk 2\n"]
    assert cells["progress"].outputs[0].text == "100 %\n"
    assert cells["updated-later"].outputs[0].data["text/plain"] == "'step 99'"


def one_cell(path, source, cell_id="only-cell"):
    """Write a notebook of one cell; returns its text."""
    nbformat.write(new_notebook(cells=[new_code_cell(source, id=cell_id)]), path)
    return path.read_text()


@pytest.mark.parametrize(
    "source, cell_id, why",
    [
        ("1", "3f2a9c1e", "cell 1 has the id '3f2a9c1e'"),
        ("1", "Cell_One", "cell 1 has the id 'Cell_One'"),
        ("1 / 0", "only-cell", "cell only-cell raised ZeroDivisionError"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_left_untouched(tmp_path, source, cell_id, why):
    path = tmp_path / "lesson.ipynb"
    before = one_cell(path, source, cell_id)
    with pytest.raises(save.CannotSave, match=why):
        save.save(path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_no_notebook_is_refused(tmp_path):
    (tmp_path / "lesson.ipynb").write_text("[]")
    with pytest.raises(save.CannotSave, match="cannot be read as a notebook"):
        save.save(tmp_path / "lesson.ipynb")


def test_a_cell_that_outlives_its_time_and_those_below_count_as_not_run(tmp_path):
    sources = {"quick": "1", "endless": "import threading; threading.Event().wait()", "below": "2"}
    notebook = new_notebook(cells=[new_code_cell(sources[name], id=name) for name in sources])
    save.run(notebook, tmp_path, timeout=2)
    assert [cell.execution_count for cell in notebook.cells] == [1, None, None]


def test_the_cost_of_a_run_is_measured_in_the_kernel(tmp_path):
    path = tmp_path / "lesson.ipynb"
    one_cell(path, "block = bytearray(300_000_000)")
    cost = save.save(path)
    assert cost.peak > 300e6 and cost.cpu > 0 and cost.seconds > 0
