"""Published results recomputed from the published tables."""
