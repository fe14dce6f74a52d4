"""The measurements: one module per subject, run in the order of `__main__.PARTS`.

A part starts its programs, measures all sides in turns, and returns its figures. It must not print,
or write outside the folder of the run. Begin with `verify`.
"""
