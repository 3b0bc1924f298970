"""How well scores agree with fine-tuning for targets other than one class an item; README.md has the protocols."""
