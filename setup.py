"""Builds the kernels: every ``mmstore/kernels/X.py`` that has an ``X.pxd`` becomes an extension.

The same source runs uncompiled, so an extension that can't be compiled is left out with a warning
(``optional``).  ``MMSTORE_PURE=1`` leaves them all out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

KERNELS = Path("mmstore", "kernels")
DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # C types come from the .pxd alone; annotations are for mypy
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "freethreading_compatible": True,
}
FLAGS = ["/O2"] if sys.platform == "win32" else ["-O3", "-fno-strict-aliasing"]  # buffers are read as many types


def kernels() -> list[Extension]:
    """The extension modules, translated to C; none in a pure build."""
    if os.environ.get("MMSTORE_PURE", "") not in ("", "0"):
        return []
    from Cython.Build import cythonize

    types = sorted(str(path) for pattern in ("*.pxd", "*.h") for path in KERNELS.glob(pattern))
    extensions = [
        Extension(
            f"mmstore.kernels.{pxd.stem}",
            [str(pxd.with_suffix(".py"))],
            depends=types,
            include_dirs=[str(KERNELS)],
            extra_compile_args=FLAGS,
        )
        for pxd in sorted(KERNELS.glob("*.pxd"))
        if pxd.with_suffix(".py").exists() and pxd.stem != "__init__"
    ]
    translated: list[Extension] = cythonize(extensions, build_dir="build/cython", compiler_directives=DIRECTIVES)
    for extension in translated:
        extension.optional = True  # given to Extension() above it would not survive the translation
    return translated


setup(ext_modules=kernels(), options={"build_ext": {"parallel": os.cpu_count() or 1}})
