"""ExecuTorch programs from the network in torch."""
