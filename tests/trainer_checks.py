"""All checks of a trainer: does it release what its plan promises?"""

from trainer_audits import AUDITS
from trainer_invariants import INVARIANTS

CHECKS = AUDITS | INVARIANTS
