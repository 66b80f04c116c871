"""How far two values are apart, and whether that is still agreement."""
