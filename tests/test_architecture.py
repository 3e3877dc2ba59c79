"""The rules of the house that a machine can check: layers, sizes, who owns bytes, who meets the system."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import mmstore

PACKAGE = Path(mmstore.__file__).parent
LAYERS = (  # from the bottom up; folders of one layer don't know each other
    {"format", "errors"},
    {"kernels"},
    {"disk"},
    {"pages"},
    {"keyspace", "columns"},
    {"catalog"},
    {"engine", "exchange"},
    {"database"},
    {"integrations"},
    {"cli"},
)
TOP = {"integrations", "cli"}
RANK = {folder: rank for rank, layer in enumerate(LAYERS) for folder in layer}
LONGEST = 400
LONGEST_OF = {"kernels": 600, "format": 500}  # splitting an algorithm costs calls; the format is a list

PUBLIC = {
    "ClosedError",
    "CorruptError",
    "DiskFullError",
    "Error",
    "FormatError",
    "LockTimeout",
    "ReadOnlyError",
    "SchemaError",
    "SyncError",
    "TransactionError",
    "compiled",
    "load",
    "nullable",
    "open",
}

SYSTEM = {"ctypes", "fcntl", "mmap", "select", "shutil", "signal", "socket", "subprocess", "tempfile"}
HARMLESS_OS = {"PathLike", "fsdecode", "fspath", "getpid", "path", "register_at_fork", "urandom"}
HARMLESS_OS |= {"cpu_count", "sched_getaffinity"}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py")
NAMES = [str(path.relative_to(PACKAGE)) for path in MODULES]
every_module = pytest.mark.parametrize("path", MODULES, ids=NAMES)


def folder(path: Path) -> str:
    """The layer's folder, or the module's own name at the top."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported, anywhere in the module."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_folders_are_the_layers() -> None:
    assert {folder(path) for path in MODULES} <= RANK.keys()


@every_module
def test_imports_point_down(path: Path) -> None:
    mine = folder(path)
    for line, name in imports(path):
        if name == "mmstore" or not name.startswith("mmstore."):
            assert name != "mmstore" or mine in TOP, f"line {line}: the package itself is imported from inside"
            continue
        theirs = name.split(".")[1]
        if theirs not in RANK:  # from mmstore import open: the public face
            assert mine in TOP, f"line {line}: {name} is the public face, for cli and integrations only"
        else:
            assert mine == theirs or RANK[theirs] < RANK[mine], f"line {line}: {mine} imports {name}, which isn't below"


def runtime_imports(path: Path) -> set[str]:
    """What is imported when the module is, without what only the type checker sees or a function needs late."""
    found: set[str] = set()
    for node in tree(path).body:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_no_cycles() -> None:
    names = {"mmstore." + ".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in MODULES}
    uses = {
        name: {found for full in runtime_imports(path) for found in (full, full.rpartition(".")[0]) if found in names}
        for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "modules import each other: " + " > ".join((*trail, name))
        if name not in done:
            for other in sorted(uses[name] - {name}):
                visit(other, (*trail, name))
            done.add(name)

    for name in names:
        visit(name, ())


@every_module
def test_size(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_OF.get(folder(path), LONGEST), f"{lines} lines: more than one concept?"


@every_module
def test_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "a module starts with a docstring"


def test_public_names() -> None:
    assert set(mmstore.__all__) == PUBLIC
    assert all(hasattr(mmstore, name) for name in PUBLIC)


@every_module
def test_all_lists_what_is_there(path: Path) -> None:
    if path.stem not in ("__init__", "__main__"):
        dotted = "mmstore." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        module = importlib.import_module(dotted)
        assert [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)] == []


@every_module
def test_only_format_knows_bytes(path: Path) -> None:
    """No struct strings elsewhere; but disk/locks packs the system's ``struct flock``, kernels/raw loads integers."""
    if path.name in ("format.py", "locks.py", "raw.py"):
        return
    assert not [line for line, name in imports(path) if name == "struct" or name.startswith("struct.")]
    if folder(path) == "kernels":  # a kernel's constants are C literals; the tests of kernels compare them with format
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Slice):
            bounds = [bound.value for bound in (node.lower, node.upper) if isinstance(bound, ast.Constant)]
            assert len(bounds) < 2, f"line {node.lineno}: literal offsets {bounds}"


@every_module
def test_only_disk_meets_the_system(path: Path) -> None:
    if folder(path) in ("disk", "kernels"):  # a kernel has no system calls; its folder tells extensions from sources
        return
    used = {name.split(".")[0] for _, name in imports(path)}
    if path.name == "cdata_in.py":  # reads structs that others made
        used.discard("ctypes")
    assert not used & SYSTEM, f"only mmstore/disk may use {used & SYSTEM}"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr in HARMLESS_OS, f"line {node.lineno}: os.{node.attr}"
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            assert {alias.name for alias in node.names} <= HARMLESS_OS, f"line {node.lineno}"


@every_module
def test_no_error_is_swallowed(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            wide = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            )
            silent = all(isinstance(step, ast.Pass) for step in node.body)
            assert not (wide and silent), f"line {node.lineno}: every error is swallowed"


def test_the_engine_never_sees_what_users_offer() -> None:
    """Only what holds databases meets the data of users as they have it; it hands down columns."""
    meet = {folder(path) for path in MODULES for _, name in imports(path) if name.startswith("mmstore.exchange")}
    assert meet <= {"exchange", "database", "integrations", "cli"}


def test_exchange_knows_columns_and_nothing_of_stores() -> None:
    """What converts data needs no file: it could serve another store."""
    names = {name.split(".")[1] for path in MODULES if folder(path) == "exchange"
             for _, name in imports(path) if name.startswith("mmstore.")}  # fmt: skip
    assert names <= {"columns", "errors", "exchange", "format", "kernels"}


@pytest.mark.parametrize("layer", ["columns", "exchange"])
def test_columns_import_nothing_of_ours_late(layer: str) -> None:
    """A module of ours that is imported inside a function hides a cycle; the layers leave none here."""
    for path in MODULES:
        if folder(path) == layer:
            early = set(tree(path).body)
            late = [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom)
                    and node not in early and (node.module or "").startswith("mmstore")]  # fmt: skip
            assert not late, f"{path.name}: imported late in lines {late}"
