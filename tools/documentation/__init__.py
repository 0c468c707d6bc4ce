"""What makes and checks the documentation: pages written from signatures, notebooks as pages, terms, outside requests."""
