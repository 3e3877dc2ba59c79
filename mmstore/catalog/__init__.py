"""The catalog: names and the descriptors of the keyspaces, tables and arrays that they stand for."""
