"""Threads that serve many callers at once: coalesced reads and group commit.

The package moves work between the event loop and a thread; it contains no SQL and never begins or
commits a transaction. Begin with `batch_worker`.
"""
