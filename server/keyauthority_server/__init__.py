"""The Key Authority server: rooms from the process at the top to the store at the bottom.

`docs/architecture.md` shows the rooms; which may import which is in pyproject.toml, under
import-linter, and `make check` holds them to it.
"""
