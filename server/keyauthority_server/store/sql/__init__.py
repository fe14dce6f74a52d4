"""SQL that both engines share: statements, row codec, transactions and integrity checks.

It runs on any `Rows` and knows no driver. Begin with `statements`, then `transaction`, the only
code that changes a record.
"""
