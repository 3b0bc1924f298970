"""What every room agrees on and stands on: contracts, errors, the registry, engines, statistics, units.

Nothing here knows a modality, a task or a proxy, and nothing imports torch at import time.
"""
