"""One module for each subject that is measured, and the order in which they are run.

A part starts what it measures, lets all sides take turns, and returns its figures. It prints
nothing and writes nothing but into the run's folder.
"""
