"""Tables of objects beside or apart from an image: their shapes, and what was measured on them."""
