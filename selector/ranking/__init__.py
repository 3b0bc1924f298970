"""From scores and what was known before to an order: combination, prior, history, forecast, caveats, agreement."""
