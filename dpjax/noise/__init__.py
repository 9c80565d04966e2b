"""What is added to the clipped sum: noise, and the keys it is drawn from.

Threat model: what an epsilon of this library counts, and what it leaves out.

| who sees it  | what                                                              |
| ------------ | ----------------------------------------------------------------- |
| the attacker | every released update, all parameters of all steps, the report,   |
|              | the ledger; this code, and all settings (clip norms, noise        |
|              | multipliers, sampling probabilities, numbers of steps); the data  |
|              | of everybody but one, who is protected                            |
| nobody       | the key, and the optimizer states and checkpoints that hold it;   |
|              | which examples were drawn into which step; every per-example      |
|              | value (losses, norms, clip factors, filters' budgets), sums       |
|              | before the noise, and the realised batch size                     |

Outside of every epsilon here, and for whoever runs the program to keep shut:

* Keys. A key has 64 bits, and everything random in a run is made of it: the noise by
  threefry2x32 with 20 rounds, batches by Philox4x64. Neither is a cipher that was
  analysed as AES was, and 2^64 trials find any key of that length. Guarantees hold
  against attackers who can do neither. A key must be drawn uniformly: with `key=None`,
  the operating system's cryptographic generator draws it, and where there is none,
  `EntropyError` is raised; there is no fallback. An integer seed such as 0 is for
  tests: whoever guesses it takes the noise off.
* Floating point. A float32 normal is one of finitely many numbers, and which of them
  can be the sum of a given number and noise may tell that number (Mironov 2012; Haney
  et al. 2022). The discrete Gaussian on an integer grid has no such lattice:
  `discrete_gaussian_noise`, `release.private_discrete_mean`. Sums of float32 clipped
  gradients, besides, have the rounding that their docstrings state.
* Side channels. How long a step takes, how much memory it needs and what it writes to
  caches may depend on the data (a Poisson batch of more examples takes longer; a
  rejection sampler takes as long as it takes). Nothing here runs in constant time, and
  neither do JAX and XLA.
* Whoever can read the process or the machine, or change the code or the data on their
  way in. One process draws the key for all: the channel between them is trusted.

References:
  Mironov (2012), On significance of the least significant bits for differential
  privacy; Haney et al. (2022), Precision-based attacks and interval refining: how to
  break, then fix, differential privacy on finite computers, arXiv 2207.13793; Garfinkel
  and Leclerc (2020), Randomness concerns when deploying differential privacy, arXiv
  2009.03777.
"""

from dpjax.noise.discrete import discrete_gaussian_noise
from dpjax.noise.entropy import EntropyError, secure_bytes
from dpjax.noise.gaussian import gaussian_noise
from dpjax.noise.keys import domain_key, key_data, step_key

__all__ = [
    "EntropyError",
    "discrete_gaussian_noise",
    "domain_key",
    "gaussian_noise",
    "key_data",
    "secure_bytes",
    "step_key",
]
