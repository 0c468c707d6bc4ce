"""The toybox: a miniature PixArt world with ground truth."""
