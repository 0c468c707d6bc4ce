"""Everything worth knowing of this engine on a machine with a GPU, from one call: `python -m benchmarks.gpu_check`."""
