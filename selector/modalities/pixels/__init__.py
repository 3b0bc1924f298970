"""Images: from an undecoded item to upright pixels, to what an encoder reads, kept decoded once for all encoders."""
