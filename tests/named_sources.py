"""Which fetched sources a notebook leans on, which are missing here, and one try to get them."""

import re
import subprocess
import sys
from pathlib import Path

from helpers import sources

ROOT = Path(__file__).resolve().parents[1]
LITERAL = re.compile(r"""["']([\w./-]+)["']""")


def named_sources(notebook):
    """The sources whose name, encoding or member ("gpt2/vocab.bpe") is a literal in the code."""
    by_name = {entry.get("encoding", name): name for name, entry in sources.LOCK.items()}
    by_name |= {name: name for name in sources.LOCK}
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    heads = {literal.split("/")[0] for literal in LITERAL.findall(code)}
    return sorted({by_name[head] for head in heads & set(by_name)})


def missing_sources(notebook):
    """The named sources that cannot be had on this machine without a network."""
    return [name for name in named_sources(notebook) if not sources.have(name)]


def fetch_named(notebooks):
    """Try once to fetch what the notebooks name, unseen, so that no lesson shows a download.

    In another process, as a student would; it stops at the first failure, which is fine: what is
    missing then is missing, and each further try without a network would only cost time.
    """
    missing = sorted({name for notebook in notebooks for name in missing_sources(notebook)})
    if missing:
        command = [sys.executable, "-m", "helpers.sources", "fetch", *missing]
        subprocess.run(command, cwd=ROOT, capture_output=True)
