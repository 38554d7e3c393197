"""Where a network comes from: checkpoints, factories, programs, folders."""
