"""Ctrl-C: taken once, and never lost."""

import signal
import sys
import threading
import time
import weakref

import jax.numpy as jnp
import optax
import pytest

from dpjax import mechanism, training
from dpjax.training import interrupts

PLAN = mechanism.DPSGD(
    num_examples=20,
    expected_batch_size=5,
    num_steps=400,
    l2_norm_clip=1.0,
    noise_multiplier=2.0,
)


@pytest.fixture(autouse=True)
def heeding_ctrl_c():
    """Take SIGINT as Python does, in a shell's job in the background too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def forgotten(monkeypatch):
    """Return what Python printed and forgot, without these tests."""
    found = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: found.append(1))
    return found


class Mortal:
    pass


def within_a_callback(call):
    mortal = Mortal()
    reference = weakref.ref(mortal, lambda _: call())
    del mortal
    assert reference() is None


def lose_a_ctrl_c():
    within_a_callback(take_a_ctrl_c)


def take_a_ctrl_c():
    signal.raise_signal(signal.SIGINT)


def run_with_sending_again(*calls):
    with interrupts.sent_again():
        for call in calls:
            call()


def wait():
    end = time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(0.01)


def test_python_forgets_a_ctrl_c_in_a_callback(forgotten):
    lose_a_ctrl_c()
    time.sleep(5 * interrupts._AGAIN_AFTER)
    assert forgotten == [1]


def test_a_lost_ctrl_c_comes_again(forgotten):
    with pytest.raises(KeyboardInterrupt):
        run_with_sending_again(lose_a_ctrl_c, wait)
    assert forgotten == []


def test_it_comes_until_it_is_taken(forgotten):
    calls = []

    def lose_another():
        calls.append(1)
        wait()

    with pytest.raises(KeyboardInterrupt):
        run_with_sending_again(
            lose_a_ctrl_c, lambda: within_a_callback(lose_another), wait
        )
    assert (calls, forgotten) == ([1], [])


def test_other_errors_are_printed_as_before(forgotten):
    with interrupts.sent_again():
        within_a_callback(lambda: 1 / 0)
    assert forgotten == [1]


def test_the_hook_is_put_back(forgotten):
    before = sys.unraisablehook
    with pytest.raises(ZeroDivisionError):
        run_with_sending_again(lambda: 1 / 0)
    assert sys.unraisablehook is before


def test_one_that_is_left_over_is_raised_at_the_end(forgotten):
    with pytest.raises(KeyboardInterrupt):
        run_with_sending_again(lose_a_ctrl_c)
    assert forgotten == []


def test_one_more_ctrl_c_takes_its_place(forgotten):
    with pytest.raises(KeyboardInterrupt):
        run_with_sending_again(lose_a_ctrl_c, take_a_ctrl_c)
    time.sleep(5 * interrupts._AGAIN_AFTER)
    assert forgotten == []


def test_without_a_handler_of_ctrl_c_it_is_printed(forgotten):
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def interrupt():
        raise KeyboardInterrupt

    run_with_sending_again(lambda: within_a_callback(interrupt))
    assert forgotten == [1]


def test_other_threads_are_left_alone(forgotten):
    def interrupt():
        raise KeyboardInterrupt

    def lose():
        within_a_callback(interrupt)

    def enter():
        before = sys.unraisablehook
        with interrupts.sent_again():
            hooks.append(sys.unraisablehook is before)

    hooks = []
    for call in (lose, enter):
        thread = threading.Thread(target=call)
        run_with_sending_again(thread.start, thread.join)
    assert (forgotten, hooks) == ([1], [True])


def test_a_hook_of_someone_else_stays(forgotten, monkeypatch):
    found = []
    with interrupts.sent_again():
        monkeypatch.setattr(sys, "unraisablehook", found.append)
    within_a_callback(lambda: 1 / 0)
    assert (forgotten, len(found)) == ([], 1)


def test_a_ctrl_c_that_is_lost_while_the_loss_is_traced_ends_the_run(forgotten):
    calls = []

    def loss(w, x):
        if not calls:
            lose_a_ctrl_c()
        calls.append(1)
        return (w - x) ** 2

    def evaluate(params):
        time.sleep(0.01)
        return {}

    with pytest.raises((KeyboardInterrupt, training.Interrupted)):
        training.fit(
            PLAN,
            loss,
            jnp.zeros(()),
            jnp.ones(20),
            optax.sgd(0.1),
            evaluate=evaluate,
            logging=training.Logging(every=1, progress=False),
        )
    assert calls
    assert forgotten == []
