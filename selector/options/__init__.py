"""The options of a call, each declared once, in groups: data, models, limits, training, machine.

A field holds type, default, help and what the option needs of a target. Signatures, ``help()``, the command line, the
record in ``run.json`` and the refusal of options that would do nothing follow from it. ``selector.config`` combines groups.
"""
