"""Runs lessons top to bottom and saves them clean: `python -m tests.save notebooks/01_*.ipynb`.

`run` is also where tests/comparer.py gets its fresh outputs, so that what is saved and what is
compared come from one front end: nbclient, which applies display updates, clear_output and Output
widgets as JupyterLab does. Widget state is not saved: in the file a widget is the text of its repr.
"""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbclient.output_widget import OutputWidget

from tests.named_sources import fetch_named, missing_sources

WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
METER = """
import json, os, sys
try:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
except ImportError:  # Windows
    peak = 0
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps({"cpu": sum(os.times()[:4]), "peak": peak * unit}))
"""


class CannotSave(Exception):
    """One sentence: which notebook, which cell, what to mend."""


@dataclass
class Cost:
    """What one run took: seconds by the clock, seconds of CPU, bytes of memory at the peak."""

    seconds: float
    cpu: float = 0.0
    peak: int = 0

    def __str__(self):
        return f"{self.seconds:.0f} s, {self.cpu:.0f} s of CPU, at most {self.peak / 1e6:.0f} MB"


def code_cells(notebook):
    """The code cells, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    """The cell's tags, as a set."""
    return set(cell.metadata.get("tags", []))


def is_readable(cell_id):
    """True for lower-case words joined by hyphens, false for the hex that editors invent."""
    words = re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", cell_id)
    return bool(words) and not re.fullmatch(r"[0-9a-f-]{8,}", cell_id)


# --- running ------------------------------------------------------------------------------------


def run(notebook, folder, timeout=300):
    """Run every code cell in a fresh kernel started in `folder`, in place; returns the Cost.

    Cells that raise do not stop the run. One that outlives `timeout` seconds or kills the kernel
    does: the cells from there on are left without an execution count.
    """
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    notebook.cells.append(meter := nbformat.v4.new_code_cell(METER))
    start = time.perf_counter()
    finished = []
    try:
        execute(notebook, folder, timeout, finished)
    except (CellTimeoutError, DeadKernelError):
        pass
    finally:
        notebook.cells.remove(meter)
    for cell in code_cells(notebook):
        cell.outputs = tidy(cell.outputs)
        if cell.id not in finished:
            cell.execution_count = None
    measured = json.loads(meter.outputs[0].text) if meter.outputs else {}
    return Cost(time.perf_counter() - start, **measured)


class PatientOutput(OutputWidget):
    """An Output widget that tells the kernel what it caught only once the cell has ended.

    nbclient's own tells it at once, on the socket on which the cell's reply is awaited; now and
    then that send swallows the news of the reply and the run sleeps until its timeout (nbclient's
    issue 312).
    """

    stale = False

    def sync_state(self):
        self.stale = True

    def tell_kernel(self):
        if self.stale:
            super().sync_state()
        self.stale = False


def execute(notebook, folder, timeout, finished):
    """nbclient's run of the whole notebook in a kernel of this interpreter; notes what finished."""

    def after(cell, **_):
        finished.append(cell.id)
        cell.outputs.extend(callback_faults(client))
        for widget in client.comm_objects.values():
            widget.tell_kernel()

    kernel = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=timeout,
        allow_errors=True,
        iopub_timeout=60,
        raise_on_iopub_timeout=True,
    )
    client.on_cell_executed = after
    client.widget_registry = {"@jupyter-widgets/output": {"OutputModel": PatientOutput}}
    # On shared cores, OpenMP threads that spin while they wait cost more than they gain. And what a
    # lesson fetches was fetched before it started, or is not to be had: no cell tries again.
    environment = {"GOMP_SPINCOUNT": "0", **os.environ, "COURSE_OFFLINE": "1"}
    environment.pop("MPLBACKEND", None)  # a kernel draws into its notebook
    # What a kernel says while it starts (that it listens on TCP) belongs in no lesson.
    client.execute(cwd=str(folder), env=environment, stderr=subprocess.DEVNULL, cleanup_kc=True)


def callback_faults(client):
    """Errors and stderr caught inside Output widgets since the last call.

    A callback's exception would otherwise vanish: nothing inside a widget is saved.
    """
    found = []
    for widget in client.comm_objects.values():
        faults = [out for out in widget.outputs if is_fault(out)]
        widget.outputs = [out for out in widget.outputs if not is_fault(out)]
        found += faults
    return found


def is_fault(output):
    """True for an error or for text on stderr."""
    return output.output_type == "error" or output.get("name") == "stderr"


def tidy(outputs):
    """The outputs with neighbouring stream chunks joined, and without widgets' random model ids."""
    joined = []
    for out in outputs:
        if out.output_type == "stream" and joined and joined[-1].get("name") == out.name:
            joined[-1].text += out.text
        else:
            joined.append(out.copy())
    for out in joined:
        if out.output_type == "stream":  # a carriage return overwrites its line, as on a screen
            out.text = re.sub(r"(?m)^.*\r(?=[^\n])", "", out.text)
        out.get("data", {}).pop(WIDGET, None)
    return joined


def fault(cell):
    """Why this cell must not stand in a lesson, in one sentence, or None."""
    if cell.execution_count is None:
        return "was not run"
    errors = [out for out in cell.outputs if out.output_type == "error"]
    expected = "raises-exception" in tags(cell)
    if errors and not expected:
        return f"raised {errors[0].ename}: {errors[0].evalue}"
    if expected and not errors:
        return "is tagged raises-exception but raised nothing"
    for out in cell.outputs:
        if out.get("name") == "stderr":
            return f"wrote on stderr: {out.text.strip()}"
    return None


# --- saving -------------------------------------------------------------------------------------


def read(path):
    """The notebook, or CannotSave when it is no notebook or a cell lacks a readable id."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotSave(f"{path} cannot be read as a notebook: {error}.") from None
    for number, cell in enumerate(cells, 1):
        if not is_readable(cell.get("id", "")):
            raise CannotSave(
                f"{path.name}: cell {number} has the id {cell.get('id')!r}; "
                "name it in words, as in 'merge-table'."
            )
    return nbformat.read(path, as_version=4)


def clean(notebook):
    """Keep of all metadata only the tags and the kernel; of a traceback, only its last line.

    (The rest of a traceback names folders of this machine.)
    """
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat_minor = 5
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata.tags} if tags(cell) else {}
    for cell in code_cells(notebook):
        for out in cell.outputs:
            if out.output_type == "error":
                out.traceback = [f"{out.ename}: {out.evalue}"]


def write(notebook, path):
    """Write to a temporary name beside `path`, then rename."""
    nbformat.validate(notebook)
    temporary = path.with_name(f".{path.name}.new")
    try:
        nbformat.write(notebook, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save(path, timeout=300):
    """Run the notebook, save it clean, return the Cost; or CannotSave and the file untouched."""
    path = Path(path)
    notebook = read(path)
    fetch_named([notebook])
    if missing := missing_sources(notebook):
        raise CannotSave(
            f"{path.name} was not saved: without {', '.join(missing)} its outputs would be those "
            f"of the fallback; try python -m helpers.sources fetch {' '.join(missing)}."
        )
    cost = run(notebook, path.parent, timeout)
    for cell in code_cells(notebook):
        if why := fault(cell):
            raise CannotSave(f"{path.name} was not saved: cell {cell.id} {why}.")
    clean(notebook)
    write(notebook, path)
    return cost


def main(paths):
    """Save each notebook and print its cost; returns how many were refused."""
    refused = 0
    for path in paths:
        try:
            print(f"{Path(path).name}: {save(path)}")
        except CannotSave as error:
            refused += 1
            print(error)
    return refused


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
