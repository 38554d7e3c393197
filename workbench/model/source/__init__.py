"""The sources of a network: checkpoints, factories, programs, folders."""
