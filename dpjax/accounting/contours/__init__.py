"""The transform of privacy losses, inverted along a contour."""
