"""Ground truth by our own fine-tuning: every encoder on every image set."""
