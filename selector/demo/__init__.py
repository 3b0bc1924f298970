"""The main job on data and weights that pip packages ship: ``photos`` and ``texts``."""
