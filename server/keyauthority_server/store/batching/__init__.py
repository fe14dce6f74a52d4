"""Threads that serve many callers at once: coalesced reads and group commit.

It moves work between the event loop and a thread, and knows no SQL. Begin with `batch_worker`.
"""
