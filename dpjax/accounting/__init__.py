"""Accounting: from what was released to epsilon, and back.

Runs on the host, in float64. Gaussian steps are accounted for here, exactly, on a
grid that fits them, or by Renyi divergences; events and the losses of other mechanisms
are dp_accounting's.
"""

from dpjax.accounting import monte_carlo
from dpjax.accounting.accountants import (
    event_delta,
    event_epsilon,
    exact_epsilon,
    pld_epsilon,
    rdp_epsilon,
)
from dpjax.accounting.calibration import (
    calibrate_event,
    calibrate_noise_multiplier,
    calibrate_num_steps,
    calibrate_sampling_prob,
)
from dpjax.accounting.curve import epsilon_curve, event_curve
from dpjax.accounting.epsilon import AccountingError, Delta, Epsilon
from dpjax.accounting.group import (
    group_epsilon,
    group_event,
    group_statement,
    vadhan_epsilon,
)
from dpjax.accounting.ledgers.budget import Budget, BudgetExceeded
from dpjax.accounting.ledgers.chain import LedgerError
from dpjax.accounting.ledgers.filter_file import FilterFile
from dpjax.accounting.ledgers.filters import ConcentratedFilter, GaussianFilter
from dpjax.accounting.ledgers.individual_filter import IndividualFilter
from dpjax.accounting.ledgers.least_noise import calibrate_to_filter
from dpjax.accounting.ledgers.ledger import PrivacyLedger
from dpjax.accounting.ledgers.odometer import PrivacyOdometer
from dpjax.accounting.ledgers.privacy_filter import PrivacyFilter
from dpjax.accounting.ledgers.renyi_filter import RenyiFilter
from dpjax.accounting.selection import Repetitions, selection_epsilon
from dpjax.accounting.tradeoff import TradeOffCurve, trade_off_curve
from dpjax.accounting.views import gaussian_dp, truncated_cdp, zero_concentrated_dp

__all__ = [
    "AccountingError",
    "Budget",
    "BudgetExceeded",
    "ConcentratedFilter",
    "Delta",
    "Epsilon",
    "FilterFile",
    "GaussianFilter",
    "IndividualFilter",
    "LedgerError",
    "PrivacyFilter",
    "PrivacyLedger",
    "PrivacyOdometer",
    "RenyiFilter",
    "Repetitions",
    "TradeOffCurve",
    "calibrate_event",
    "calibrate_noise_multiplier",
    "calibrate_num_steps",
    "calibrate_sampling_prob",
    "calibrate_to_filter",
    "epsilon_curve",
    "event_curve",
    "event_delta",
    "event_epsilon",
    "exact_epsilon",
    "gaussian_dp",
    "group_epsilon",
    "group_event",
    "group_statement",
    "monte_carlo",
    "pld_epsilon",
    "rdp_epsilon",
    "selection_epsilon",
    "trade_off_curve",
    "truncated_cdp",
    "vadhan_epsilon",
    "zero_concentrated_dp",
]
