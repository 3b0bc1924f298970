"""One file an input format: it says which objects are its own and gives a ``Table`` of items and annotation columns.

Readers know nothing of tasks: which of the columns is learned, and how, is the task's question.
"""
