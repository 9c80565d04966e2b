"""Renyi divergences by quadrature."""
