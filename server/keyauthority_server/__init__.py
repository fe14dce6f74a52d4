"""The Key Authority server: packages layered from process supervision down to the store.

`docs/architecture.md` maps the packages; begin reading there. A package must import only the
layers below it: pyproject.toml lists the layers under import-linter, and `make check` enforces
them.
"""
