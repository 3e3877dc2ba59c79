"""The kernels as installed and the same sources uncompiled, side by side in one process (I10).

``SOURCE`` loads mmstore's kernels, pages and keyspace once more under the name ``mmsource``, always from the
``.py`` files.  In an uncompiled build the two are alike.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import mmstore

TWINS = ("kernels", "keyspace", "pages")  # format and errors are shared


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports ``mmsource.x`` from the source of ``mmstore.x``, whose imports lead to ``mmsource`` again."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != "mmsource" and not name.startswith("mmsource."):
            return None
        file = Path(mmstore.__file__).parent.joinpath(*name.split(".")[1:])
        package = file.is_dir()
        spec = importlib.machinery.ModuleSpec(name, self, is_package=package)
        spec.origin = str(file / "__init__.py" if package else file.with_suffix(".py"))
        return spec

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None and module.__spec__.origin is not None
        if module.__name__ == "mmsource":
            return
        file = Path(module.__spec__.origin)
        if not file.exists():
            return
        source = file.read_text(encoding="utf-8")
        for twin in TWINS:
            source = source.replace(f"from mmstore.{twin}", f"from mmsource.{twin}")
        module.__dict__["__file__"] = str(file)
        exec(compile(source, str(file), "exec"), module.__dict__)


class Kernels:
    """What the tests use, by one way of running."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.compiled = name == "mmstore" and mmstore.compiled()
        load = importlib.import_module
        self.hashing = load(f"{name}.kernels.hashing")
        self.bucket = load(f"{name}.kernels.bucket")
        self.packed = load(f"{name}.kernels.packed")
        self.strings = load(f"{name}.kernels.strings")
        self.extremes = load(f"{name}.kernels.extremes").extremes
        self.tree = load(f"{name}.kernels.tree")
        self.Tree = self.tree.Tree
        self.Index = load(f"{name}.keyspace.index").Index
        self.Workspace = load(f"{name}.pages.workspace").Workspace
        self.values = load(f"{name}.keyspace.values")
        descriptor = load(f"{name}.keyspace.descriptor")
        self.IndexDescriptor = descriptor.IndexDescriptor
        self.EMPTY = descriptor.EMPTY

    def __repr__(self) -> str:
        return self.name


sys.meta_path.insert(0, _Finder())
INSTALLED = Kernels("mmstore")
SOURCE = Kernels("mmsource")
BOTH = (INSTALLED, SOURCE) if mmstore.compiled() else (INSTALLED,)  # else the two are one
IDS = ("compiled", "source") if mmstore.compiled() else ("source",)
