"""Ground truth by fine-tuning for targets other than one class an item, and how well scores agree with it.

One file a task; README.md has the protocols.
"""
