"""The extension list, flags and the debug switch; nothing else. Settings of the project are in pyproject.toml.

HEADRACE_DEBUG=1                 assertions, bounds checks, no optimisation, copy counters
HEADRACE_SANITIZE=address|undefined|thread (comma-separated)    a sanitizer build, implies debug
HEADRACE_MODULES=wire,http1      build only these; `none`: none at all
"""

import os
import pathlib

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

ROOT = pathlib.Path(__file__).parent
SOURCES = ROOT / "ext"
SANITIZE = os.environ.get("HEADRACE_SANITIZE", "")
DEBUG = bool(SANITIZE) or os.environ.get("HEADRACE_DEBUG", "") not in ("", "0")
CPUS = len(os.sched_getaffinity(0))
ONLY = set(filter(None, os.environ.get("HEADRACE_MODULES", "").split(",")))

LIBRARIES = {"http2": ["nghttp2"], "json_codec": ["simdjson"], "json_data": ["simdjson"],
             "json_encode": ["simdjson"], "compression": ["z"]}

FLAGS = ["-std=c++17", "-fvisibility=hidden", "-fno-semantic-interposition", "-fstack-protector-strong", "-fstack-clash-protection",
         "-Wall", "-Wextra", "-Wformat-security", "-Werror=return-type", "-Werror=format-security",
         # Cython's own output trips these; they say nothing about our code.
         "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-unused-function", "-Wno-cast-function-type",
         "-Wno-sign-compare", "-Wno-deprecated-declarations"]
LINK = ["-Wl,-z,now", "-Wl,-z,relro", "-Wl,-z,noexecstack"]
if SANITIZE:
    FLAGS += ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}", "-UNDEBUG", "-DHEADRACE_DEBUG"]
    LINK += [f"-fsanitize={SANITIZE}"]
elif DEBUG:
    FLAGS += ["-O0", "-g", "-UNDEBUG", "-DHEADRACE_DEBUG"]
else:
    FLAGS += ["-O2", "-g1", "-fno-plt", "-D_FORTIFY_SOURCE=2"]
    LINK += ["-Wl,-O1"]

DIRECTIVES = {
    "language_level": 3, "boundscheck": DEBUG, "wraparound": False, "cdivision": True, "initializedcheck": DEBUG, "nonecheck": False,
    "embedsignature": True, "binding": True, "legacy_implicit_noexcept": False, "show_performance_hints": True, "warn.unused": True,
}
Options.warning_errors = True
Options.cimport_from_pyx = False


def extension(path: pathlib.Path) -> Extension:
    name = ".".join(path.relative_to(SOURCES).with_suffix("").parts)
    return Extension(name, [str(path.relative_to(ROOT))], language="c++", include_dirs=["ext/serve/_core"],
                     depends=sorted(str(header.relative_to(ROOT)) for header in SOURCES.rglob("*.h*")),
                     libraries=LIBRARIES.get(path.stem, []), extra_compile_args=FLAGS, extra_link_args=LINK)


setup(
    ext_modules=cythonize(
        [extension(p) for p in sorted(SOURCES.rglob("*.pyx")) if not ONLY or p.stem in ONLY],
        include_path=[str(SOURCES)], compiler_directives=DIRECTIVES, nthreads=0 if ONLY else CPUS,
        build_dir="build/cython" + (f"-{SANITIZE}" if SANITIZE else "-debug" if DEBUG else ""),
    ),
    options={"build_ext": {"parallel": CPUS}},
)
