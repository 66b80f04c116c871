"""Where the faults are."""
