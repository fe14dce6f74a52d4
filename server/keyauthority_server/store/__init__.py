"""Where keys, projects and the log of changes are kept. SQL and drivers are nowhere else.

The contract is `store.base`; it never judges a key and never speaks to a caller.
"""
