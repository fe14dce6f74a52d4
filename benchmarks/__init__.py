"""Benchmarks of Key Authority and of the alternatives to it.

`make bench` runs them. Each module in `parts` measures one subject; the modules here are shared:
servers, loads, figures and the report. No benchmark code may become part of the product. Begin with
`__main__`.
"""
