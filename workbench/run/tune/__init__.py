"""The search for the best variant."""
