"""Everything between a socket and the engine: limits, forms, routes and answers."""
