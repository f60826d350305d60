"""A stand-in for the provider, for development and tests. It is never imported by the package."""
