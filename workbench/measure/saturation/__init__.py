"""What 16-bit accumulation would change in an INT8 network, by emulating it."""
