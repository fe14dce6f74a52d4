"""Reads and bookkeeping over `Rows`, one module per subject, the same for both engines.

Each function takes the rows of an open transaction, as `Store.query` passes them, and returns plain
values. Begin with `lists`.
"""
