"""The SQLite engine: one file, one machine, any number of processes.

The event loop reads single records; one thread per process writes, and the writers of several
processes queue at two lock files. No other package imports a SQLite driver. Begin with `store`.
"""
