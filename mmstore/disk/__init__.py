"""The file: mapping, growth, placing, locks, log.  The only code that meets the operating system.

::

    storefile   the data file as pages: mapped, grown, placed into, synced
    log         the write-ahead log beside it
    locks       byte-range locks by which the processes that share a store agree
    mapping     mapped memory whose lifetime is that of the views over it
    backend     the seam: everything above speaks to the operating system through these protocols
    posix       ... the real thing
    memory      ... anonymous memory under a name, for ``:memory:``
    libc        the system calls that Python's standard library lacks

Faults for tests are injected behind ``backend``, and nowhere else.
"""
