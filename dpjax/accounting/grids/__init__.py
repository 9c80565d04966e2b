"""Laws of privacy losses on a grid, composed by Fourier transforms."""
