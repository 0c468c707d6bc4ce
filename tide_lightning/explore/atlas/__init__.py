"""The atlas: every live latent on a page of its own, found by words, time, block and factor."""
