"""What both sides are fed."""
