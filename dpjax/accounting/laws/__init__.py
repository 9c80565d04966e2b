"""The output laws of private releases, and the privacy losses between them."""
