"""Does to a checkout what clusters, disks and strangers do: see `python -m benchmarks.faults --help`."""
