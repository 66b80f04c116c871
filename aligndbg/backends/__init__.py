"""One folder a runtime."""
