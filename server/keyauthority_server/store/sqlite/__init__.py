"""The SQLite engine: one file, one machine, any number of processes.

Single records are read in the event loop; one thread per process writes, and writers of several
processes queue at two lock files. No other package imports a SQLite driver. Begin with `store`.
"""
