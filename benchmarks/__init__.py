"""What is measured: `python -m benchmarks.<name>`."""
