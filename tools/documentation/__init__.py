"""What makes and checks the documentation: pages written from signatures and notebooks, terms, outside requests."""
