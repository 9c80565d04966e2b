"""Curvature: operators, and algorithms that know nothing but a matvec."""

from dpjax.curvature.matvec import MatVec
from dpjax.curvature.sources import Private, Public

__all__ = ["MatVec", "Private", "Public"]
