"""The command ``mmstore``: a thin shell around the library."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line; without its packages, say which extra brings them."""
    try:
        from mmstore.cli.commands import mmstore
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        raise SystemExit(
            f"the command line needs {error.name}: python -m pip install 'mmstore[cli,arrow]' (arrow for load)"
        ) from None
    mmstore()
