"""LiteRT files from the network in torch."""
