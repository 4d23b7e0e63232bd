"""How many cores this process may really use: its affinity mask and its cgroup's quota, whichever is less."""

import os
from pathlib import Path


def available_cpus(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole cores, at least 1: len(sched_getaffinity), capped by the CPU quota of cgroup v2 or v1 rounded up."""
    cores = len(os.sched_getaffinity(0))
    quotas = [q for q in (_quota_v2(folder) or _quota_v1(folder) for folder in _cgroup_folders(proc, root)) if q]
    return max(1, min([cores, *quotas]))


def _cgroup_folders(proc: Path, root: Path) -> list[Path]:
    """CPU cgroups of the process and all their parents: a quota anywhere above binds. Inside a container the root itself is ours."""
    folders = [root, root / "cpu"]
    try:
        lines = proc.read_text(encoding="utf-8").splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        parts = Path(path.lstrip("/")).parts
        folders += [base.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    return folders


def _quota_v2(folder: Path) -> int | None:
    words = _words(folder / "cpu.max")
    return _ceil(int(words[0]), int(words[1])) if len(words) == 2 and words[0] != "max" else None


def _quota_v1(folder: Path) -> int | None:
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    return _ceil(int(quota[0]), int(period[0])) if quota and period and int(quota[0]) > 0 else None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except OSError:
        return []


def _ceil(quota: int, period: int) -> int:
    return -(-quota // max(1, period))
