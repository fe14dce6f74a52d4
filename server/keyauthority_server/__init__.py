"""The Key Authority server: rooms from the process at the top to the store at the bottom.

`docs/architecture.md` shows the rooms and which may import which; `make check` holds them to it.
"""
