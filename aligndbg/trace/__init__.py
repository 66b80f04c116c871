"""One run of one side, and the files that hold it."""
