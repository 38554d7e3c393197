"""The sanity look: what is wrong with a network or its photos, before any variant is judged."""
