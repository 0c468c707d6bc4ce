"""What is measured: `python -m benchmarks.<name>`."""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command does, and before PyTorch is imported
