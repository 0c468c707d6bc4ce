"""On-the-fly activations from a frozen denoiser."""
