"""What is added to the clipped sum: noise, and the keys it is drawn from."""

from dpjax.noise.gaussian import gaussian_noise
from dpjax.noise.keys import domain_key, key_data, step_key

__all__ = ["domain_key", "gaussian_noise", "key_data", "step_key"]
