"""The computer under us: processors, GPUs, files, child processes."""
