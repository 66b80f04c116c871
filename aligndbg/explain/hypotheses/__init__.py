"""One kind of cause a file."""
