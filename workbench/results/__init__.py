"""What a run leaves behind, and the verdict on it."""
