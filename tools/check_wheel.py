"""Hold a wheel and an sdist against the tree: everything that the package needs is in, no source of an extension leaks into the wheel.

usage: python tools/check_wheel.py dist/headrace-*.whl dist/headrace-*.tar.gz
"""

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = {".py", ".pyi", ".typed", ".json", ".html", ".binpb"}
SOURCES = {".pyx", ".pxd", ".h", ".cpp", ".c"}


def package_files() -> set[str]:
    """Return what of serve/ a user needs."""
    found = {str(path.relative_to(ROOT)) for path in (ROOT / "serve").rglob("*") if path.suffix in DATA or path.name == "py.typed"}
    return {name for name in found if "__pycache__" not in name}


def check_wheel(path: Path) -> list[str]:
    """Return what is wrong with a wheel."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    modules = {str(source.relative_to(ROOT / "ext").with_suffix("")) for source in (ROOT / "ext").rglob("*.pyx")}
    built = {name.partition(".")[0] for name in names if name.endswith(".so") and name.startswith("serve/")}
    faults = [f"missing: {name}" for name in sorted(package_files() - names)]
    faults += [f"not built: {name}" for name in sorted(modules - built)]
    faults += [f"leaked: {name}" for name in sorted(names) if Path(name).suffix in SOURCES]
    faults += [f"stray: {name}" for name in sorted(names) if not name.startswith(("serve/", "headrace-", "headrace.libs/"))]
    return faults


def check_sdist(path: Path) -> list[str]:
    """Return what is wrong with an sdist: a wheel must be buildable from it."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    native = {str(source.relative_to(ROOT)) for source in (ROOT / "ext").rglob("*") if source.suffix in {".pyx", ".pxd", ".h"}}
    faults = [f"missing: {name}" for name in sorted((package_files() | native) - names)]
    return faults + [f"leaked: {name}" for name in sorted(names) if name.endswith((".so", ".cpp"))]


def main(arguments: list[str]) -> int:
    """Check each file by its kind; return the exit code."""
    faults = []
    for argument in arguments:
        path = Path(argument)
        found = check_wheel(path) if path.suffix == ".whl" else check_sdist(path)
        faults += [f"{path.name}: {fault}" for fault in found]
    print("\n".join(faults) or "check_wheel: complete, nothing leaked")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
