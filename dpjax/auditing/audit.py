"""From canaries to a verdict, in one call and one training run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from dpjax import _check, _files, noise
from dpjax.auditing import coin
from dpjax.auditing.audit_report import AuditReport
from dpjax.auditing.canaries import Canaries
from dpjax.auditing.planting import plant, with_canaries
from dpjax.auditing.question import Question
from dpjax.auditing.watching import Progress
from dpjax.auditing.white_box import Trainer, Training, checked_score
from dpjax.mechanism import DPSGD
from dpjax.types import ArrayTree, KeyLike, LossFn, Params


def one_run_audit(
    mechanism: DPSGD,
    loss_fn: LossFn,
    params: Params,
    data: ArrayTree,
    optimizer: optax.GradientTransformation | None = None,
    *,
    canaries: Canaries,
    delta: float,
    significance: float = 0.05,
    key: KeyLike | None = None,
    coin_seed: int | None = None,
    guesses: int | None = None,
    method: str | None = None,
    score: str | None = None,
    trainer: Trainer | None = None,
    background: int = 256,
    microbatch_size: int | None = None,
    engine: str = "auto",
    progress: Progress | None = None,
    settings: Mapping[str, Any] | None = None,
) -> AuditReport:
    """Train once with canaries, and say whether the mechanism's promise can hold.

    Each canary is put in, or left out, by a fair coin of its own. What is seen of the
    run gives each a score; the coins of the highest are guessed "in", of the lowest
    "out", and the number of right guesses bounds epsilon from below.

    | canaries | score          | a canary's score is                                 |
    | -------- | -------------- | --------------------------------------------------- |
    | gradient | "gradient"     | what was released along its direction, summed over  |
    |          |                | the steps, less what the data add: white-box        |
    | gradient | "displacement" | how far the parameters went against its direction   |
    | example  | "loss"         | minus its loss at the end                           |
    | example  | "checkpoints"  | how far its loss fell, over checkpoints             |
    | example  | "gradient"     | how far its gradients pushed the way that was gone  |

    Args:
      mechanism: what is promised for the data alone. The run under audit has it with
        `num_examples` raised by the canaries (see `with_canaries`); a canary that is
        left out contributes exactly zero.
      loss_fn: `loss_fn(params, *example) -> scalar`, for ONE example.
      params: initial parameters.
      data: as in `training.fit`.
      optimizer: a plain optax optimizer; not used, and may be None, with `trainer`.
      canaries: `GradientCanaries` or `ExampleCanaries`.
      delta: in (0, 1); with method "dp", 0 also.
      significance: in (0, 1), the probability, at most, that the bound is too high.
      key: seed or key of sampling and noise; None draws a fresh one.
      coin_seed: of the coins; None draws a fresh one. Both are kept in the report.
      guesses: how many coins are guessed; None is a fifth (`coin.default_guesses`).
      method: "fdp" tries the mechanism's own trade-off curve at all noises, and is
        right for Poisson samples; "dp" assumes nothing. None is "fdp" where it can be.
      score: see the table; None is the first that can be had.
      trainer: `trainer(loss_fn, params, data, key) -> final params` trains instead of
        `training.fit`. Its `data` is `(codes, *arrays)` with N + m rows, and `loss_fn`
        takes a row's code after the parameters; its promise is `with_canaries`'s.
      background: examples looked at in each step to estimate what the data add to what
        is released; 0 for none, where data are few or the model large.
      microbatch_size: examples whose gradients are in memory at a time.
      engine: the clipping engine.
      progress: told how many steps of how many are done.
      settings: JSON object that the report keeps.

    Returns:
      An `AuditReport`, with `.lower_bound`, `.theoretical` and `.verdict`. The same
      seeds give the same report.

    Raises:
      ValueError, TypeError: a setting out of range, such as more Dirac canaries than
        parameters, or scores that are not finite.
      AuditError: too few guesses for the significance, or all coins on one side.

    Guarantee: where training is as private as promised when one canary is left out
    (contributes nothing), `violated` is True with probability at most `significance`,
    over the coins and the training. No violation proves nothing.

    Example:
      >>> from dpjax.auditing import GradientCanaries
      >>> plan = DPSGD(num_examples=100, expected_batch_size=50, num_steps=4,
      ...              l2_norm_clip=1.0, noise_multiplier=1.0)
      >>> report = one_run_audit(
      ...     plan, lambda w, x: ((w - x) ** 2).sum(), np.zeros(60, np.float32),
      ...     np.ones((100, 60), np.float32), optax.sgd(0.1), key=0, coin_seed=0,
      ...     canaries=GradientCanaries(50), delta=1e-5, method="dp")
      >>> report.violated, report.lower_bound < report.theoretical
      (False, True)

    References:
      Steinke, Nasr and Jagielski (2023), Privacy auditing with one (1) training run,
      algorithm 1; Mahloujifar, Melis and Chaudhuri (2024), Auditing f-differential
      privacy in one run; Nasr et al. (2023), Tight auditing of differentially private
      machine learning, section 5, for white-box canaries.
    """
    audited = with_canaries(mechanism, _checked(canaries).count)
    asked: dict[str, Any] = {"delta": delta, "significance": significance}
    asked |= {"method": method, "guesses": guesses}
    question = Question.checked(audited, canaries, **asked)
    words, seed = noise.key_data(key), coin.coin_seed(coin_seed)
    coins = coin.flip(canaries.count, seed)
    run = Training(
        mechanism=audited,
        loss_fn=loss_fn,
        params=params,
        optimizer=_needed(optimizer, trainer),
        planted=plant(canaries, coins, mechanism, loss_fn, params, data),
        key=words,
        trainer=trainer,
        background=_check.integer("background", background, minimum=0),
        options={"microbatch_size": microbatch_size, "engine": engine},
        progress=progress,
    )
    score = checked_score(score, canaries, trainer)
    context = {"score": score, "settings": _files.json_copy(settings or {})}
    context["access"] = "white-box" if trainer is None else "black-box"
    context["seeds"] = {"coins": seed, "key": np.asarray(words).tolist()}
    return question.answer(run.scores(score), coins, **context)


def _checked(canaries: Canaries) -> Canaries:
    if not isinstance(canaries, Canaries):
        expected = "GradientCanaries or ExampleCanaries"
        _check.fail(expected, "canaries", canaries, TypeError)
    return canaries


def _needed(
    optimizer: optax.GradientTransformation | None, trainer: Trainer | None
) -> optax.GradientTransformation | None:
    if trainer is None and optimizer is None:
        _check.fail("an optimizer, or a trainer", "optimizer", None, TypeError)
    return optimizer
