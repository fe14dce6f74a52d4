"""The wire: generated from protos/ by `make proto`, never edited."""
