"""From statuses to one verdict."""
