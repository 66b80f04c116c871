"""A diff as an assertion."""
