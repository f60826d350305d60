"""Tools that other people test with, and debug with: each with the real package."""
