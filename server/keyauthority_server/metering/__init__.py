"""Rate limits, quotas and usage of verifications.

Limits name the counters that a verification spends from; usage is counted in memory and flushed to
the store each second. The package evaluates no key and runs no SQL. Begin with `limits`.
"""
