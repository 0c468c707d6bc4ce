"""`tide play`: a local page on which latents of a run are searched, raised and lowered."""
