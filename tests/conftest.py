"""What several test files share."""

import sys
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot as plt

from helpers import plots

# The scripts in assets/ import each other as `python assets/…` lets them.
sys.path.append(str(Path(__file__).parents[1] / "assets"))


@pytest.fixture(scope="module")
def one_thread():
    """Tiny tensors: a second thread costs more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def course_style():
    """The style of the lessons' figures; whatever was drawn is closed afterwards."""
    with plt.rc_context():
        plots.style()
        yield
    plt.close("all")
