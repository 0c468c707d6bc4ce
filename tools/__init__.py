"""What the Makefile runs, and what made the grounds that come with the package."""
