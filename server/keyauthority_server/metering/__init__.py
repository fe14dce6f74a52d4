"""What a verification draws and leaves behind: limits and usage.

Rate limits and quotas name the counters that a verification draws from; usage is counted in memory
and handed to the store each second. It neither judges keys nor runs SQL. Begin with `limits`.
"""
