"""Which recipes are worth trying, and why."""
