"""A disk that can be watched and can fail, below the SQLite of real server processes.

`vfs` stands between SQLite and its files, `recording` writes down what reaches them, `images` makes
of that what a loss of power could leave, `failing` lets operations fail.
"""
