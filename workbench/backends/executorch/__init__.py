"""ExecuTorch, torch's runtime for devices."""
