"""What made the toybox's pipeline and oracles: `python -m tools.toybox.train`, measured by `tools.toybox.evaluate`."""
