"""Reads and bookkeeping over `Rows`, one module per subject, the same for both engines.

Each function takes an open transaction and returns plain values. Begin with `lists`.
"""
