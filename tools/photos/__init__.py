"""What made the denoiser and the judges of the photographs, by the clock, and what measures them."""
