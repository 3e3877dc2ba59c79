"""What can be loaded: each format is an `Input`, which yields batches and knows how far it has read.

``base`` says what an Input is, ``source`` opens and unpacks bytes, ``detect`` finds the format of a name.  Text
(``delimited``, ``jsonlines``) is cut into blocks of whole records by ``blocks``, its types come from a sample
(``infer``).  ``columnar`` is Parquet and Arrow, ``arrays`` npy and npz, ``records`` LMDB, dbm and shelves, ``stores``
another mmstore file.
"""
