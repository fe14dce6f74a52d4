"""Process lifecycle: first start, supervisor, workers and restore.

It connects the other packages and must not contain rules about keys. Begin with `bootstrap`, which
opens an authority, then read `worker`, which serves it.
"""
