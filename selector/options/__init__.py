"""Groups of options that rooms below ``selector.config`` read as well, which has the others: data, training.

A field holds type, default, help and what the option needs of a target. Signatures, ``help()``, the command line, the
record in ``run.json`` and the refusal of options that would do nothing follow from it.
"""
