"""How much memory is free on this machine, and a refusal before it is filled.

A kernel that runs out of memory dies without a word, and a machine that swaps stands still. So
`weights` asks here first. What a model needs is not worked out here; lesson 08 meets the sentence.
"""

from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")  # where Linux keeps the limits of containers
VERSIONS = [  # the limit, what is in use, and rows of memory.stat for what can be dropped
    ("memory.max", "memory.current", {"active_file", "inactive_file"}),
    (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        {"total_active_file", "total_inactive_file"},
    ),
]


class TooLarge(MemoryError):
    """What needs more memory than is free, by how much, and what to do, in one sentence."""


def free() -> int | None:
    """The bytes that this process may still fill; None where the system does not say."""
    try:
        import psutil  # comes with jupyterlab, by way of IPython
    except ImportError:
        return None
    return min([psutil.virtual_memory().available, *_left_in_groups()])


def _left_in_groups() -> list[int]:
    """What is left in each of this process's groups that has a limit: a container's, or a job's."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return []
    found = []
    for _, kind, path in (line.split(":", 2) for line in lines):
        top = GROUPS / kind  # the first version of groups has a tree for each kind, the second one
        # Inside a container the path may be the outer machine's; then the limit is at the top.
        here = top / path.lstrip("/")
        found += [_left(group) for group in {top, here, *here.parents} - {*top.parents}]
    return [left for left in found if left is not None]


def _left(group: Path) -> int | None:
    """The group's limit less what it uses, files that can be dropped not counted; None without."""
    for limit, used, files in VERSIONS:
        try:
            most, in_use = (int((group / file).read_text()) for file in (limit, used))
            rows = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
        except (OSError, ValueError):  # the other version, or the word max
            continue
        return max(0, most - in_use + sum(int(n) for name, n in rows if name in files))
    return None


def require(needed: int, what: str, advice: str) -> None:
    """Raises TooLarge, with the advice, if `what` needs more bytes than are free."""
    here = free()
    if here is not None and needed > here:
        raise TooLarge(f"{what} needs {size(needed)}, {size(here)} free: {advice}")


def size(n_bytes: int) -> str:
    """4_900_000_000 -> "4.9 GB", 538_000_000 -> "538 MB"."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"
