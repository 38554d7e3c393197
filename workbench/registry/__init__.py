"""Published models: versions, aliases, bundles."""
