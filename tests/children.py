"""Child processes for tests: started, spoken with, killed, and never left behind.

A child runs one function of a module in ``tests`` by name: ``Child("workers", "write", path, 5)``.  Arguments
and what it says are JSON, one line each way.  Whoever uses a ``Child`` as a context manager gets it
killed at the end if it still runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import mmstore

_START = """
import faulthandler, importlib, json, sys
faulthandler.enable()
arguments = json.loads(sys.argv[1])
getattr(importlib.import_module(arguments[0]), arguments[1])(*arguments[2:])
"""


def environment() -> dict[str, str]:
    """Finds the mmstore under test and the modules in ``tests``, wherever the child starts."""
    places = [str(Path(mmstore.__file__).parent.parent), str(Path(__file__).parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


class Child:
    """A process that runs ``module.function(*arguments)``."""

    def __init__(self, module: str, function: str, *arguments: Any) -> None:
        self.name = function
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps([module, function, *arguments])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._errors: list[bytes] = []
        self._threads = [
            threading.Thread(target=self._listen, daemon=True),
            threading.Thread(target=self._collect, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def _collect(self) -> None:
        assert self.process.stderr is not None
        self._errors.extend(self.process.stderr)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def errors(self) -> str:
        return b"".join(self._errors).decode(errors="replace")

    def hear(self, timeout: float = 60) -> Any:
        """The next thing that it says."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"{self.name} said nothing for {timeout} s; {self.errors}") from None
        if not line.endswith(b"\n"):
            self.process.wait(10)
            raise AssertionError(f"{self.name} ended with {self.process.returncode}; {self.errors}")
        return json.loads(line)

    def heard(self) -> list[Any]:
        """All that it said and nobody heard yet; after its end a line cut short is left out."""
        said = []
        with contextlib.suppress(queue.Empty):
            while True:
                line = self._lines.get_nowait()
                if line.endswith(b"\n"):
                    said.append(json.loads(line))
        return said

    def tell(self, what: Any = None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End it at once, as nothing that it runs can prevent."""
        self.process.send_signal(signal.SIGKILL)
        self._end()

    def join(self, timeout: float = 60) -> None:
        """Wait for its end, which must be a good one."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end within {timeout} s; {self.errors}") from None
        self._end()
        assert self.process.returncode == 0, f"{self.name} ended with {self.process.returncode}; {self.errors}"

    def _end(self) -> None:
        self.process.wait()
        for thread in self._threads:
            thread.join(10)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()
        else:
            self._end()


def say(what: Any = None) -> None:
    """In a child: tell the test something."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def listen() -> Any:
    """In a child: wait for the test; ends the process when the test is gone."""
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    return json.loads(line)


# --- fork --------------------------------------------------------------------------------------------------


class Forked:
    """A forked child that runs ``work()``; ``join`` raises what it raised."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(write)
            return
        code = 1
        try:
            os.close(self._read)
            faults = b""
            try:
                work()
                code = 0
            except BaseException:
                faults = pickle.dumps(traceback.format_exc())
            while faults:
                faults = faults[os.write(write, faults) :]
        finally:
            os._exit(code)  # without the test runner's exit handlers

    def join(self) -> None:
        with os.fdopen(self._read, "rb") as pipe:
            faults = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert status == 0, pickle.loads(faults) if faults else f"the child ended with {status}"


def in_fork(work: Callable[[], object]) -> None:
    """Run ``work()`` in a forked child and wait for it."""
    Forked(work).join()
