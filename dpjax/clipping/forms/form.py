"""What every form can do."""

from typing import Protocol

import jax

from dpjax.clipping.forms.formed import Formed
from dpjax.clipping.forms.measuring import Squares, Term


class Form(Protocol):
    """Gradients of a batch with respect to one weight."""

    @property
    def is_better_formed(self) -> bool:
        """Whether writing the gradients out costs less than working without."""

    def squares(self) -> Squares:
        """Return the squared norms."""

    def terms(self) -> list[Term]:
        """Return terms whose sum bounds the norms, also where squares overflow."""

    def weighted_sum(self, weights: jax.Array) -> jax.Array:
        """Return the sum over the batch of weight times gradient, `(*weight shape)`."""

    def formed(self) -> Formed:
        """Write the gradients out."""
