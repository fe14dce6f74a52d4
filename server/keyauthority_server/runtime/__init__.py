"""Puts a process together: first start, workers, their supervisor, and restore.

It wires the other packages up and holds no rule of its own about keys. Begin with `bootstrap`,
which opens an authority, then `worker`, which serves it.
"""
