"""Diff -> DataFrame, JSON, terminal, HTML. Heavy packages are imported inside functions."""
