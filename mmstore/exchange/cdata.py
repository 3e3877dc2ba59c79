"""The Arrow C data and C stream interface: arrays handed to other libraries and taken from them, without a copy.

Whatever speaks it (pyarrow, polars, duckdb, pandas, nanoarrow) reads what is exported here, and gives what is
imported here, with none of its code in ours and none of ours in its.  Nothing here knows tables.

A `Field` is a type and a name, `Data` a batch of it: the buffers of Arrow's columnar format as numpy arrays.
Capsules carry both across: an exported one may be taken once and releases what was never taken; the arrays are kept
until the consumer lets go of them.  Where the lines run:

- `mmstore.exchange.cdata_layout`: which buffers a format means, how long they must be
- `mmstore.exchange.cdata_out`: structs made from numpy arrays
- `mmstore.exchange.cdata_in`: numpy arrays over a producer's structs
- `mmstore.kernels.handover`: the callbacks, which may come at any time in any thread

https://arrow.apache.org/docs/format/CDataInterface.html, .../CStreamInterface.html and
.../CDataInterface/PyCapsuleInterface.html are the rules.
"""

from __future__ import annotations

from mmstore.exchange.cdata_in import import_array, import_schema, import_stream
from mmstore.exchange.cdata_layout import Data, Field
from mmstore.exchange.cdata_out import export_array, export_schema, export_stream

__all__ = [
    "Data",
    "Field",
    "export_array",
    "export_schema",
    "export_stream",
    "import_array",
    "import_schema",
    "import_stream",
]
