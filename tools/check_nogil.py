"""Fail when a cdef function that runs without the GIL could take it.

A nogil function can take the GIL behind its author's back: through `with gil`, `raise`, `assert`, a division or an index that is checked,
an unbound local, a call whose exception is looked for afterwards, a C++ call declared `except +`, or a swallowed exception that is printed.
Cython says so for some of these only, so this reads what it generated.

usage: python tools/check_nogil.py [FILE.cpp ...]       default: what the build generated for every ext/**/*.pyx
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "ext"
GENERATED = ROOT / "build" / "cython" / "ext"

# A definition, not a prototype: it ends with the opening brace. Cython prints one on one line.
FUNCTION = re.compile(r"^(?:static\b|CYTHON_\w+|__PYX_EXTERN_C\b|[A-Za-z_]).*?\b(__pyx_f\w*)\(.*\)\s*\{\s*$")
ORIGIN = re.compile(r'^\s*/\* "([^"]+)":(\d+)')
ACQUIRES = re.compile(
    r"PyGILState_Ensure"            # with gil, raise, assert, and the handler of a C++ exception
    r"|WithGIL\b"                   # the look for an exception after a call
    r"|\b__Pyx_Raise\w*[nN]ogil\w*\("     # raising utilities that take the GIL inside
    r"|__Pyx_WriteUnraisable\(.*,\s*1\)\s*;"    # last argument: the caller has no GIL
)


class Fault(NamedTuple):
    """A place in a generated function that takes the GIL; origin is FILE:LINE of the Cython source."""

    origin: str
    function: str
    code: str


class Reading(NamedTuple):
    """What one generated file holds."""

    n_functions: int
    faults: tuple[Fault, ...]


def read_functions(text: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield (C name, [(origin, line), ...]) for each cdef function in generated C++."""
    name, origin = "", "?"
    body: list[tuple[str, str]] = []
    for line in text.splitlines():
        if place := ORIGIN.match(line):
            origin = f"{place[1]}:{place[2]}"
        if not name:
            if start := FUNCTION.match(line):
                name, body = start[1], []
        elif line == "}":
            yield name, body
            name = ""
        else:
            body.append((origin, line))


def read_generated(text: str) -> Reading:
    """Count the cdef functions of a generated file and list where they take the GIL."""
    functions = list(read_functions(text))
    faults = {
        Fault(origin, name, line.strip())
        for name, body in functions
        for origin, line in body
        if ACQUIRES.search(line)
    }
    return Reading(len(functions), tuple(sorted(faults)))


def generated_files() -> list[Path]:
    """Return the generated file of every module; raise SystemExit when one was not built."""
    expected = [GENERATED / source.relative_to(SOURCES).with_suffix(".cpp") for source in sorted(SOURCES.rglob("*.pyx"))]
    if missing := [path.name for path in expected if not path.exists()]:
        raise SystemExit(f"not built: {', '.join(missing)}; run `make setup` first")
    return expected


def main(arguments: list[str]) -> int:
    """Check the files that are named, or all; return the exit code."""
    n_functions = n_faults = 0
    for path in [Path(argument) for argument in arguments] or generated_files():
        text = path.read_text()
        reading = read_generated(text)
        if "__pyx_f_" in text and not reading.n_functions:
            raise SystemExit(f"{path.name}: no function was recognised; has Cython changed what it prints?")
        for fault in reading.faults:
            print(f"{fault.origin}: {fault.function} can take the GIL: {fault.code}")
        n_functions += reading.n_functions
        n_faults += len(reading.faults)
    print(f"check_nogil: {n_functions} native functions, {n_faults} places that can take the GIL")
    return 1 if n_faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
