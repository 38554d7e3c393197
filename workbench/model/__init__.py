"""The network: where it comes from, how it is exported, what its graph holds."""
