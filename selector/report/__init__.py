"""What a run looks like: a table in a terminal or notebook, one HTML file, figures.

Everything here reads a finished ``Ranking`` and computes nothing that the run does not hold.
"""
