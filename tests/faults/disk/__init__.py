"""A disk that can be watched and can fail, below the SQLite of real server processes.

`vfs` stands between SQLite and its files, `recording` records the operations on them, `images`
derives the files that a loss of power could leave, `failing` lets operations fail.
"""
