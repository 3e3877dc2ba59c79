"""The tests run against the installed package, never against the source folder beside them.

The folder has no compiled kernels, so importing it would test the wrong thing without a word.  The
checkout is therefore taken off the import path (``python -m pytest`` puts it there) whenever mmstore
is installed elsewhere, here and in child processes.  An editable install is used as it is.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


def _installed() -> Path | None:
    """Folder of the installed package, if that is not the checkout's own."""
    for found in importlib.metadata.distributions(name="mmstore"):
        folder = Path(str(found.locate_file("mmstore"))).resolve()
        if (folder / "__init__.py").exists() and folder.parent != CHECKOUT:
            return folder
    return None


if _installed() is None:  # the checkout itself is tested: let child processes find it, too
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
elif "mmstore" not in sys.modules:
    sys.path[:] = [entry for entry in sys.path if Path(entry or os.curdir).resolve() != CHECKOUT]
    os.environ["PYTHONSAFEPATH"] = "1"


def pytest_report_header(config: pytest.Config) -> str:
    """Says which mmstore is tested, and whether its kernels are compiled."""
    import mmstore

    return f"mmstore: {Path(mmstore.__file__).parent}, compiled: {mmstore.compiled()}"


def pytest_configure(config: pytest.Config) -> None:
    """Stops at once when the build under test is not the one that was asked for."""
    import mmstore

    folder = _installed()
    if folder is not None and Path(mmstore.__file__).resolve().parent != folder:
        raise pytest.UsageError(
            f"mmstore is installed in {folder}, but the tests would import {Path(mmstore.__file__).parent}: "
            "take that folder off PYTHONPATH, or uninstall"
        )
    expected = os.environ.get("MMSTORE_EXPECT_COMPILED")
    if expected is not None and str(mmstore.compiled()) != expected:
        raise pytest.UsageError(f"expected mmstore.compiled() to be {expected}, found {mmstore.compiled()}")
