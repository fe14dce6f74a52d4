"""What Key Authority costs, measured beside the systems that one would use in its place.

`make bench` runs it. `parts` measures, one module for each subject; the modules here are what all
parts share: servers, loads, figures and the report. Nothing in here is part of the product.
"""
