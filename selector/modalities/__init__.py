"""What an item is, one file a modality: how it is checked, prepared once, batched, augmented, shown."""
