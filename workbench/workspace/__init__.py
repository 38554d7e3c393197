"""What is asked: `krishi.yaml`, recipes, the bundled sample."""
