"""Storage of keys, projects, counters and the change log. SQL and drivers are nowhere else.

It never decides whether a key is valid, and builds no RPC status. Begin with `interface`, the
contract of every engine; then read `sql.transaction` and one engine, `sqlite.store`.
"""
