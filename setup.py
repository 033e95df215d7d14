"""Builds the compiled kernels: one extension per ``copyd/_fast/*.pyx``; everything else is in pyproject.toml.

``COPYD_EXT=columns,encode`` builds only the named ones (for work on a single kernel).
"""

import os
import pathlib

from Cython.Build import cythonize
from setuptools import Extension, setup

# Safe defaults for every kernel; a file that needs less checking says so, with its reason, in its own first lines.
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,  # kernels index by tables they own; the Python entry points validate
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": False,  # C division rounds toward zero; money must name its rounding instead
    "embedsignature": True,
}

FAST = pathlib.Path("copyd/_fast")
CHOSEN = [name for name in os.environ.get("COPYD_EXT", "").split(",") if name]


def kernel(path: pathlib.Path) -> Extension:
    """The extension for one ``.pyx``; plain -O3 without -march, so one wheel runs on every x86-64 and aarch64 machine."""
    return Extension(
        f"copyd._fast.{path.stem}",
        [path.as_posix()],
        depends=[header.as_posix() for header in sorted(FAST.glob("*.h"))],
        extra_compile_args=["-O3", "-fno-strict-aliasing", "-Wno-unused-function", "-Wno-unreachable-code"],
    )


setup(
    ext_modules=cythonize(
        [kernel(path) for path in sorted(FAST.glob("*.pyx")) if not CHOSEN or path.stem in CHOSEN],
        compiler_directives=DIRECTIVES,
        nthreads=0,
        show_all_warnings=False,
    ),
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
