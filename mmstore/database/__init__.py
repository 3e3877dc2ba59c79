"""What users hold: ``open`` and the objects that it leads to."""

from mmstore.database.database import Database, open

__all__ = ["Database", "open"]
