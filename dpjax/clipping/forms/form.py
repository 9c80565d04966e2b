"""What every form can do."""

from typing import Protocol

import jax

from dpjax.clipping.forms.formed import Formed
from dpjax.clipping.forms.measuring import Norm


class Form(Protocol):
    """Gradients of a batch with respect to one weight."""

    @property
    def is_better_formed(self) -> bool:
        """Whether writing the gradients out costs less than working without."""

    def norm(self) -> Norm:
        """Return the norms."""

    def longest(self) -> jax.Array:
        """Return upper bounds of the norms `(batch,)`, also where squares overflow."""

    def weighted_sum(self, weights: jax.Array) -> jax.Array:
        """Return the sum over the batch of weight times gradient, `(*weight shape)`."""

    def formed(self) -> Formed:
        """Write the gradients out."""
