"""What fuzzing draws: trees of examples, values that hurt, masks, events, garbage."""

import itertools
import math

import dp_accounting
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from dp_accounting import dp_event
from hypothesis import strategies as st

from dpjax.clipping import rules

HURTS = (np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e30, 1e-45, 1e-38, 6e-8, 0.0, -0.0)
SCALES = (1e-44, 1e-38, 1e-20, 1e-7, 1.0, 1e3, 1e7, 1e19, 1e30, 3e38)
CLIP_NORM = 0.7

TREES = {
    "dense": {"w": (3, 2), "b": (2,)},
    "scalars": (((), ()), {"deep": [{"er": ()}]}),
    "nested": {"a": [{"b": ((2,), (1, 3))}, None], "c": None, "d": {}},
    "empty leaf": {"none": (0,), "some": (4,), "flat": (2, 0, 3)},
    "one leaf": (5,),
    "long": {"w": (130,), "s": ()},
    "half": {"w": (4, 2), "b": (3,)},
    "bfloat": {"w": (4, 2), "b": (3,)},
    "mixed": {"w": (2, 2), "b": (3,)},
}
"""Shapes of parameters: tuples of numbers, in any tree."""

DTYPES = {"half": jnp.float16, "bfloat": jnp.bfloat16}
BATCH_SIZES = (0, 1, 2, 5, 7, 13)
RULES = {
    "norm": CLIP_NORM,
    "per layer": rules.PerLayer(CLIP_NORM),
    "automatic": rules.Automatic(CLIP_NORM),
    "never steady": rules.Automatic(CLIP_NORM, stability=0.0),
    "per-sample adaptive": rules.PerSampleAdaptive(CLIP_NORM),
}


def fuzz(strategy, check, count, record_property):
    """Check so many inputs, and no fewer."""
    seen = itertools.count()

    @hypothesis.settings(
        max_examples=count,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(strategy)
    def run(case):
        next(seen)
        check(case)

    run()
    inputs = next(seen)
    record_property("inputs", inputs)
    assert inputs >= count


def in_house(question, *kinds):
    """Return an answer, or None for a typed error in the house's words."""
    try:
        return question()
    except (ValueError, TypeError, *kinds) as error:
        if not str(error).startswith("Expected "):
            raise
        return None


def flat_sum(tree):
    """Return the leaves of a tree in one row, float64."""
    return np.concatenate(
        [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    )


def is_shape(node):
    return isinstance(node, tuple) and all(isinstance(n, int) for n in node)


def dtype_of(name, index):
    """Return the dtype of a leaf; trees may mix them."""
    if name == "mixed":
        return (jnp.float16, jnp.float32)[index % 2]
    return DTYPES.get(name, jnp.float32)


@st.composite
def recipes(draw):
    """Draw how the values of a batch are made; see `values`."""
    return {
        "seed": draw(st.integers(0, 2**32 - 1)),
        "scale": draw(st.sampled_from(SCALES)),
        "spread": draw(st.booleans()),
        "hurts": draw(
            st.lists(
                st.tuples(st.integers(0, 10**6), st.sampled_from(HURTS)), max_size=4
            )
        ),
    }


def values(recipe, batch_size, size):
    """Return (batch, size) float64: normal, of one scale or of many, and what hurts."""
    generator = np.random.default_rng(recipe["seed"])
    rows = generator.normal(size=(batch_size, size)) * recipe["scale"]
    if recipe["spread"]:
        rows *= 10.0 ** generator.integers(-12, 12, size=(batch_size, 1))
    for place, value in recipe["hurts"]:
        if rows.size:
            rows.flat[place % rows.size] = value
    return rows


@st.composite
def masks(draw, batch_size):
    """Draw None, or booleans: all, none, one or some."""
    kind = draw(st.sampled_from(("absent", "all", "none", "one", "some")))
    if kind == "absent":
        return None
    mask = np.full(batch_size, kind == "all")
    if kind == "one" and batch_size:
        mask[draw(st.integers(0, batch_size - 1))] = True
    if kind == "some":
        bits = draw(st.integers(0, 2**batch_size - 1))
        mask = (bits >> np.arange(batch_size)) % 2 == 1
    return mask


NUMBERS = st.one_of(
    st.floats(),
    st.floats(min_value=0, max_value=1),
    st.floats(min_value=1e-3, max_value=1e6),
    st.integers(-3, 10**9),
)
GARBAGE = st.one_of(
    NUMBERS,
    st.none(),
    st.booleans(),
    st.text(max_size=3),
    st.sampled_from((math.inf, -math.inf, math.nan, 10**400, 1j, b"1", ..., object())),
    st.builds(np.float32, st.floats(width=32)),
    st.builds(np.array, st.lists(st.floats(), max_size=3)),
)

_SIMPLE = st.one_of(
    st.builds(dp_accounting.GaussianDpEvent, NUMBERS),
    st.builds(dp_accounting.LaplaceDpEvent, NUMBERS),
    st.builds(dp_accounting.ZCDpEvent, NUMBERS),
    st.builds(dp_event.DiscreteLaplaceDpEvent, NUMBERS, NUMBERS),
    st.builds(dp_accounting.NoOpDpEvent),
    st.builds(dp_accounting.NonPrivateDpEvent),
    st.builds(
        dp_accounting.TruncatedSubsampledGaussianDpEvent,
        dataset_size=st.integers(-1, 10**6),
        sampling_probability=NUMBERS,
        truncated_batch_size=st.integers(-1, 10**6),
        noise_multiplier=NUMBERS,
    ),
)


def _around(inner):
    counts = st.integers(-1, 10**9)
    return st.one_of(
        st.builds(dp_accounting.SelfComposedDpEvent, inner, counts),
        st.builds(dp_accounting.ComposedDpEvent, st.lists(inner, max_size=4)),
        st.builds(dp_accounting.PoissonSampledDpEvent, NUMBERS, inner),
        st.builds(dp_accounting.SampledWithReplacementDpEvent, counts, counts, inner),
        st.builds(
            dp_accounting.SampledWithoutReplacementDpEvent, counts, counts, inner
        ),
    )


EVENTS = st.recursive(_SIMPLE, _around, max_leaves=5)
"""Events of any nesting, of numbers in and out of range."""

JSON = st.recursive(
    st.one_of(
        NUMBERS,
        st.none(),
        st.booleans(),
        st.text(max_size=4),
        st.just("GaussianDpEvent"),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(("type", "event", "events", "count", "noise_multiplier")),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=6,
)
"""Whatever JSON can hold, with the right words in it now and then."""
