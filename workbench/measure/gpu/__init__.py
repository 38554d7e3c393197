"""A GPU while something runs on it."""
