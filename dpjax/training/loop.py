"""fit: the training loop."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import optax

from dpjax.accounting import FilterFile, PrivacyFilter
from dpjax.mechanism import DPSGD
from dpjax.training import (
    budget,
    charging,
    feeding,
    interrupts,
    journal,
    lines,
    processes,
    returning,
    spreading,
)
from dpjax.training.checkpoints import Checkpointing
from dpjax.training.losses import Loss
from dpjax.training.placement import Placement
from dpjax.training.plan import Plan, make_plan
from dpjax.training.progress import Progress, closing_lines
from dpjax.training.request import Evaluate, Logging, Mechanism, Request
from dpjax.training.result import FitResult, make_result
from dpjax.training.state import TrainState
from dpjax.types import KeyLike, LossFn, Params


def fit(
    mechanism: Mechanism,
    loss_fn: LossFn,
    params: Params,
    data: Any,
    optimizer: optax.GradientTransformation,
    *,
    key: KeyLike | None = None,
    run_dir: str | pathlib.Path | None = None,
    resume: bool = False,
    delta: float | None = None,
    max_epsilon: float | None = None,
    evaluate: Evaluate | None = None,
    ema_decay: float | None = None,
    keep_batch_dim: bool = False,
    prng_argnum: int | None = None,
    microbatch_size: int | str | None = None,
    memory_budget: int | None = None,
    engine: str = "auto",
    logging: Logging | None = None,
    checkpointing: Checkpointing | None = None,
    settings: Mapping[str, Any] | None = None,
    placement: Placement | None = None,
    privacy_filter: PrivacyFilter | FilterFile | None = None,
    unit: str = "example",
) -> FitResult:
    """Train `params` on private `data`, step by step, as `mechanism` says.

    Each step draws a batch by the mechanism's sampler, sums the clipped gradients of
    its chunks, adds the noise, divides by a public constant and hands the result to
    `optimizer`. The step is compiled once. Ctrl-C and SIGTERM end the run after the
    step at hand, with a checkpoint; a killed process loses the steps since the last
    checkpoint and nothing else. A run that goes on gives the same numbers, bit for bit.

    Args:
      mechanism: one of `dpjax.mechanism`, `DPSGD` say, or `NonPrivate` for the same
        loop without privacy.
      loss_fn: `loss_fn(params, *example) -> scalar` for ONE example.
      params: pytree of floating-point arrays.
      data: the private examples: one pytree of arrays `(num_examples, ...)`, NumPy or
        JAX, or a tuple of them, such as `(x, y)`, passed as separate arguments. Or a
        Grain random-access source or `grain.MapDataset`, each record of which is such
        an example, and each example one record. What is on the disk (`np.memmap` too)
        is never loaded whole; see `sources` for how it is known again.
      optimizer: a plain optax optimizer; the mechanism makes it private.
      key: seed or PRNG key of sampling, noise and the loss's own randomness. None draws
        fresh entropy from the operating system, which a model that is to be released
        needs: whoever knows the key can take the noise away.
      run_dir: folder for config, metrics, checkpoints and summary, or None.
      resume: go on with the run in `run_dir`; the other arguments must be the same.
      delta: the delta at which epsilon is reported; a run folder needs it.
      max_epsilon: stop before the step that would pass it (exactly, at `delta`).
      evaluate: `evaluate(params) -> dict of floats`, on PUBLIC held-out data: its
        results are written and shown as public. With `ema_decay` it gets the average.
      ema_decay: in (0, 1): also keep an exponential moving average of the parameters.
        It is post-processing and costs no privacy.
      keep_batch_dim: `loss_fn` takes a batch of one example; it is then checked that
        it does not mix examples.
      prng_argnum: position of a PRNG key among the arguments of `loss_fn` (dropout,
        augmentation): each example and step gets its own.
      microbatch_size: examples whose gradients are in memory at a time; None takes a
        chunk whole, and "auto" finds the largest that fits `memory_budget`.
      memory_budget: bytes of a device that the gradient of a chunk may take, its
        arguments and results included; None takes what is free. See `memory`.
      engine: the clipping engine; the same numbers, other costs.
      logging: how often to log and evaluate, and whether to show progress.
      checkpointing: how often to write checkpoints, and how many to keep.
      settings: JSON object written to config.json and compared when the run is resumed.
      placement: how the run is spread over devices; None takes all of `jax.devices()`,
        those of other processes of `jax.distributed` too. Every process then calls
        `fit` with the same arguments; the first alone writes and shows anything.
      privacy_filter: the budget of this run and others, each of which may be chosen by
        what was released before. A new run is charged to it before the first step, with
        all its steps; one that is resumed was charged, and is not charged again.
      unit: what the loss takes one of, in words to be shown: "user", where it is one.

    Returns:
      A `FitResult`.

    Raises:
      ValueError, TypeError: arguments that are wrong or disagree, such as data that is
        not of the mechanism's number of examples.
      RunFolderError: `run_dir` holds a run already (or none, to resume), is in use, or
        cannot be written. `ResumeError`: it holds another run; the differences are
        named.
      CheckpointError: a checkpoint could not be written, or none that is whole is left.
      DataError: a record could not be read, or is not like the first: the run can be
        resumed at its last checkpoint. `MemoryBudgetError`: no microbatch fits.
      BudgetExceeded: `privacy_filter` does not admit the run; nothing is written.
      Interrupted: SIGINT or SIGTERM arrived; the exit code is 130 or 143.

    Guarantee: the parameters of every step, their average, and what is computed from
    them alone are (epsilon, delta)-private for the mechanism's neighbouring relation,
    with the number of examples and all arguments but `data` public, and `key` secret.
    All runs of a `privacy_filter`, with their choice, have its budget together.
    Metrics under "not_private" and what the progress bar shows of the loss are not.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from dpjax import mechanism
      >>> plan = mechanism.DPSGD(num_examples=100, expected_batch_size=20, num_steps=5,
      ...                        l2_norm_clip=1.0, noise_multiplier=2.0)
      >>> result = fit(plan, lambda w, x: (w - x) ** 2, jnp.zeros(()), jnp.ones(100),
      ...              optax.sgd(0.1), delta=1e-5, logging=Logging(progress=False))
      >>> result.steps, round(result.epsilon["exact"], 2)
      (5, 1.21)

      Data of any size on the disk are read row by row, by anything that has these two
      methods (`grain.sources.ArrayRecordDataSource` is one):

      >>> class Rows:
      ...     def __len__(self):
      ...         return 100
      ...     def __getitem__(self, index):
      ...         return jnp.ones(())  # np.load(f"{index}.npy"), say
      >>> from_disk = fit(plan, lambda w, x: (w - x) ** 2, jnp.zeros(()), Rows(),
      ...                 optax.sgd(0.1), logging=Logging(progress=False))
      >>> from_disk.steps
      5
    """
    request = Request(
        mechanism=mechanism,
        loss=Loss(loss_fn, keep_batch_dim, prng_argnum, microbatch_size, engine),
        params=params,
        data=data,
        optimizer=optimizer,
        key=key,
        run_dir=None if run_dir is None else pathlib.Path(run_dir),
        resume=resume,
        delta=delta,
        max_epsilon=max_epsilon,
        evaluate=evaluate,
        ema_decay=ema_decay,
        logging=logging or Logging(),
        checkpointing=checkpointing or Checkpointing(),
        settings=settings or {},
        memory_budget=memory_budget,
        placement=placement,
        privacy_filter=privacy_filter,
        unit=unit,
    )
    if not processes.is_first():
        request = dataclasses.replace(request, run_dir=None)
    with contextlib.ExitStack() as stack:
        stack.enter_context(interrupts.sent_again())
        plan = make_plan(request)
        processes.check_same(arguments=plan.config, data=plan.private["data"])
        with processes.together():
            charging.check(plan)
            records = stack.enter_context(journal.opened(plan))
            state = records.start()
        return _run(records, processes.same_tree(state))


def _run(records: journal.Journal, state: TrainState) -> FitResult:
    plan, layout = records.plan, records.plan.layout
    show = plan.request.logging.progress and processes.is_first()
    progress = Progress(plan.last_step, int(state.steps), enabled=show)
    try:
        for note in records.notes:
            progress.note(note)
        state = _train(plan, spreading.spread(layout, state), records, progress)
    finally:
        progress.close()
    result = make_result(spreading.on_host(layout, state), records)
    result = returning.everywhere(result, layout, state)
    if show:
        seeded = not plan.key_words[0]
        described = plan.config["mechanism"]
        closing = closing_lines(result.summary, described, seeded=seeded)
        more = [*_quoted(plan.request, result.summary), *charging.closing_lines(plan)]
        print(*closing, *more, sep="\n")
    return result


def _quoted(request: Request, summary: dict[str, Any]) -> list[str]:
    """Return what is often quoted of such batches, as what it is."""
    plan, delta = request.mechanism, request.delta
    if not isinstance(plan, DPSGD) or delta is None or plan.is_poisson:
        return []
    quoted = plan.epsilon_if_poisson(delta, step=summary["steps"])
    return [f"Often quoted for such batches: {quoted}."]


def _train(
    plan: Plan, state: TrainState, records: journal.Journal, progress: Progress
) -> TrainState:
    request, start, layout = plan.request, int(state.steps), plan.layout
    draws = request.mechanism.batches(plan.key_words, start)
    draws = feeding.own_rows(layout, draws, plan.rows)
    signals = processes.Signals()
    batches = contextlib.closing(plan.source.batches(draws))
    with batches as read, interrupts.deferred() as pending:
        for number in range(start + 1, plan.last_step + 1):
            before = state
            chunks = feeding.assembled(layout, next(read), plan.rows)
            state, raw = plan.step(state, plan.key_words, chunks)
            jax.block_until_ready(before.steps)  # one step ahead of the device
            line = None
            if budget.is_due(number, request.logging.every, plan.last_step):
                line = records.log(lines.make_line(plan, number, state, raw))
            progress.advance(line)
            if budget.is_due(number, request.checkpointing.every, plan.last_step):
                _save(records, state)
            signum = signals.seen(pending.signum)
            if signum is not None:
                _save(records, state, wait=True)
                progress.note(f"stopped after step {number}")
                raise interrupts.Interrupted(signum, number)
    return state


def _save(records: journal.Journal, state: TrainState, *, wait: bool = False) -> None:
    host = spreading.on_host(records.plan.layout, state)
    with processes.together():
        records.save(host, wait=wait)
