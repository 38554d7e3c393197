"""The model that is served, the threads that run it, and its replacement while requests come."""
