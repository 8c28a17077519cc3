"""The house is in order: imports run upward, names and links are true, nothing stray is tracked.

python -m pytest tests/test_structure.py
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import lint

ROOT = Path(__file__).resolve().parents[1]
ORDER = (
    "config families sources tokenizer world tasks preferences data model generate speculation "
    "published memory gguf shelves chats steps vocabulary translation weights specimens "
    "quantization runs recipe train lora align rlhf bench plots drawings pages widgets cases check"
).split()
MODULES = sorted(path.stem for path in (ROOT / "helpers").glob("*.py") if path.stem != "__init__")
MAY_PRINT = {"sources", "train", "bench", "check"}
FAMILY_FREE = [name for name in ("config", "model") if name in MODULES]
FAMILIES = re.compile(r"gpt|llama|gemma|deepseek|qwen|mistral|mixtral|smollm", re.IGNORECASE)
# The homes of people, and where a kernel keeps its cells, at the start of a path.
MACHINE_PATH = re.compile(r"(?<![\w.~])(?:/(?:home|root|Users)/|/tmp/ipykernel\w|[A-Z]:\\Users)")
MOST_BYTES = 2_000_000
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


# --- helpers -------------------------------------------------------------------------------------


def imported_helpers(source):
    """The helpers modules that a module's source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from [node.module] if node.module else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "helpers":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("helpers."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            yield from (name[1] for name in names if name[0] == "helpers" and len(name) > 1)


def wrong_imports(name, source):
    """The imported helpers that do not stand above the module `name` in ORDER."""
    above = ORDER[: ORDER.index(name)]
    return [module for module in imported_helpers(source) if module not in above]


def prints(source):
    """The lines on which a source calls print or writes on a standard stream."""
    for node in ast.walk(ast.parse(source)):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if called in ("print", "sys.stdout.write", "sys.stderr.write"):
            yield node.lineno


def source_of(name):
    """The source of a helpers module."""
    return (ROOT / "helpers" / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_in_the_order_and_imports_only_from_above(name):
    assert name in ORDER, f"helpers/{name}.py has no place in ORDER, above"
    assert wrong_imports(name, source_of(name)) == []


@pytest.mark.parametrize("name", [name for name in MODULES if name not in MAY_PRINT])
def test_a_module_prints_nothing(name):
    assert list(prints(source_of(name))) == []


@pytest.mark.parametrize("name", FAMILY_FREE)
def test_the_decoder_knows_no_family(name):
    assert FAMILIES.findall(source_of(name)) == []


def test_the_package_itself_is_empty():
    assert source_of("__init__") == ""


@pytest.mark.parametrize(
    "line",
    [
        "from helpers.widgets import token_explorer",
        "from helpers import widgets",
        "import helpers.widgets as w",
        "from .widgets import token_explorer",
        "from . import widgets",
        "def late():\n    from helpers.widgets import token_explorer",
        "from helpers.utils import thing",
    ],
)
def test_a_downward_or_unknown_import_is_seen(line):
    assert wrong_imports("data", line)
    assert wrong_imports("data", "from helpers.world import World\nimport helpers") == []


def test_a_print_is_seen_wherever_it_stands():
    assert list(prints("def f():\n    print(1)\nclass A:\n    x = sys.stderr.write('no')")) == [
        2,
        4,
    ]


# --- README, links, .ci/run ----------------------------------------------------------------------


def links(markdown):
    """The relative targets of a Markdown text's links and images, without anchors."""
    text = lint.without_code_blocks(markdown)
    found = re.findall(r"\]\(\s*<?([^)\s>]+)", text)
    found += re.findall(r"""\b(?:src|href)\s*=\s*["']([^"']+)""", text)
    return [link.split("#")[0] for link in found if not re.match(r"[a-z]+:|#", link)]


def dead_links(markdown, folder):
    """The relative links of a text in `folder` that lead nowhere."""
    return [link for link in links(markdown) if not (folder / link).exists()]


def readme():
    """The README's text."""
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_leads_to_files_that_exist():
    assert dead_links(readme(), ROOT) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_lesson_leads_to_files_that_exist_and_the_readme_to_it(path):
    text = "\n\n".join(cell.source for cell in lint.markdown_cells(lint.read(path)))
    assert dead_links(text, path.parent) == []
    rows = [line for line in readme().splitlines() if line.startswith("|")]
    assert f"notebooks/{path.name}" in "\n".join(rows)


def test_a_dead_link_is_seen(tmp_path):
    (tmp_path / "here.md").touch()
    assert dead_links("[a](here.md#top) [b](https://a.org) [c](#d) `x`", tmp_path) == []
    assert dead_links("[a](gone.md) ![b](gone.png) <img src='no.png'>", tmp_path) == [
        "gone.md",
        "gone.png",
        "no.png",
    ]


def test_ci_runs_the_command_that_the_readme_gives():
    block = readme().partition("<!-- test command -->")[2].partition("\n```\n")[0]
    commands = [line for line in block.splitlines() if line.startswith("python -m pip install")]
    assert len(commands) == 1 and "python -m pytest" in commands[0]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "<!-- test command -->" in script and "README.md" in script and "eval" in script


# --- files ---------------------------------------------------------------------------------------


def kept_files():
    """The files that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this folder is no git checkout, so no one can say which files belong to it")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def machine_paths(text):
    """The beginnings of absolute paths of one machine in a text."""
    return MACHINE_PATH.findall(text)


def test_no_file_is_large():
    assert [path.name for path in kept_files() if path.stat().st_size > MOST_BYTES] == []


def test_no_file_names_a_path_of_one_machine():
    texts = {path: path.read_bytes().decode("utf-8", "ignore") for path in kept_files()}
    assert {path.name: found for path in texts if (found := machine_paths(texts[path]))} == {}


def test_a_path_of_one_machine_is_seen():
    for parts in (
        ["", "home", "me", "x.py"],
        ["", "root", "x"],
        ["", "tmp", "ipykernel_12", "3.py"],
    ):
        assert machine_paths(f"File {'/'.join(parts)}, line 1")
    assert machine_paths("~/Users/x https://a.org/Users/x, /homework and notebooks/Users/x") == []


def test_the_code_is_clean():
    command = [sys.executable, "-m", "ruff", "check", "helpers", "tests", "notebooks"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
