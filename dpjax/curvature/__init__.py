"""Curvature: operators over a batch, and algorithms that know nothing but a matvec.

An operator says what looking at its batch costs (`Public` or `Private`), and every
result carries that as `.event`, for a ledger.
"""

from dpjax.curvature.averaging import average
from dpjax.curvature.blocks import Block, restrict
from dpjax.curvature.damping import damped
from dpjax.curvature.density import SpectralDensity, spectral_density
from dpjax.curvature.determinant import log_determinant
from dpjax.curvature.eigenpairs import (
    Eigenpairs,
    bottom_eigenpairs,
    bottom_ritz_pairs,
    top_eigenpairs,
    top_ritz_pairs,
)
from dpjax.curvature.estimates import Estimate, diagonal, frobenius_squared, trace
from dpjax.curvature.extremes import Extremes, extreme_eigenvalues
from dpjax.curvature.fisher import fisher_operator
from dpjax.curvature.ggn import ggn_operator
from dpjax.curvature.hessian import hessian_operator
from dpjax.curvature.influences import Influence, influence
from dpjax.curvature.inverse import Solution, inverse_hvp
from dpjax.curvature.krylov import lanczos
from dpjax.curvature.landscape import LossSlice, loss_slice
from dpjax.curvature.matrices import dense
from dpjax.curvature.matvec import MatVec
from dpjax.curvature.per_example import per_example_curvature
from dpjax.curvature.readings import Reading
from dpjax.curvature.sources import Private, Public
from dpjax.curvature.tridiagonal import Tridiagonal
from dpjax.curvature.true_fisher import sampled_fisher_operator, true_fisher_operator

__all__ = [
    "Block",
    "Eigenpairs",
    "Estimate",
    "Extremes",
    "Influence",
    "LossSlice",
    "MatVec",
    "Private",
    "Public",
    "Reading",
    "Solution",
    "SpectralDensity",
    "Tridiagonal",
    "average",
    "bottom_eigenpairs",
    "bottom_ritz_pairs",
    "damped",
    "dense",
    "diagonal",
    "extreme_eigenvalues",
    "fisher_operator",
    "frobenius_squared",
    "ggn_operator",
    "hessian_operator",
    "influence",
    "inverse_hvp",
    "lanczos",
    "log_determinant",
    "loss_slice",
    "per_example_curvature",
    "restrict",
    "sampled_fisher_operator",
    "spectral_density",
    "top_eigenpairs",
    "top_ritz_pairs",
    "trace",
    "true_fisher_operator",
]
