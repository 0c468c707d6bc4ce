"""What a configuration means, before it runs: its sites, and what it will cost."""
