"""python -m pytest tests/test_memory.py -p no:nbval -o addopts="" """

import sys
from pathlib import Path

import pytest

from helpers import memory


def group(folder, **files):
    """A group of Linux with these files; `stat` is given row by row."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, said in files.items():
        (folder / f"memory.{name}").write_text(str(said))


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A folder in the place of /sys/fs/cgroup, and what /proc/self/cgroup says."""
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    read = Path.read_text
    said = {"lines": "0::/\n"}

    def faked(path, *rest, **how):
        return said["lines"] if path == Path("/proc/self/cgroup") else read(path, *rest, **how)

    monkeypatch.setattr(Path, "read_text", faked)
    return said


def test_what_is_free_is_told_and_is_no_more_than_the_machine_has():
    psutil = pytest.importorskip("psutil")
    assert 0 < memory.free() <= psutil.virtual_memory().total


def test_without_psutil_nothing_is_known_and_nothing_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert memory.free() is None
    memory.require(10**18, "it", "no")


def test_a_containers_limit_counts(tmp_path, groups):
    stat = "anon 5\ninactive_file 30\nactive_file 20\n"
    group(tmp_path, max=1000, current=600, stat=stat)
    assert memory.free() == 1000 - 600 + 30 + 20


def test_of_nested_groups_the_tightest_counts(tmp_path, groups):
    groups["lines"] = "0::/jobs/one\n"
    group(tmp_path, max="max", current=600, stat="")
    group(tmp_path / "jobs", max=900, current=600, stat="")
    group(tmp_path / "jobs" / "one", max=700, current=100, stat="")
    assert memory.free() == 300


def test_the_first_version_of_groups_is_known_too(tmp_path, groups):
    groups["lines"] = "5:cpu,cpuacct:/a\n4:memory:/a\n0::/\n"
    files = {"limit_in_bytes": 800, "usage_in_bytes": 500}
    group(tmp_path / "memory" / "a", **files, stat="inactive_file 1\ntotal_inactive_file 40")
    assert memory.free() == 340


def test_a_path_of_the_outer_machine_leaves_the_top(tmp_path, groups):
    groups["lines"] = "0::/docker/0123\n"
    group(tmp_path, max=1000, current=2000, stat="")
    assert memory.free() == 0


def test_other_systems_have_no_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda path: (_ for _ in ()).throw(FileNotFoundError))
    assert memory.free() > 0


def test_what_does_not_fit_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: 3_100_000_000)
    with pytest.raises(memory.TooLarge) as caught:
        memory.require(4_900_000_000, "m", "load in bfloat16")
    assert str(caught.value) == "m needs 4.9 GB, 3.1 GB free: load in bfloat16"
    memory.require(3_100_000_000, "m", "")
    assert memory.size(538_060_032) == "538 MB"
