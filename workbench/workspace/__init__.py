"""The files that people write, `krishi.yaml` and recipes, and the bundled sample."""
