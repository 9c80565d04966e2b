"""Clipping rules: factors from norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from released import flat

from dpjax import clipping
from dpjax.clipping import rules
from dpjax.clipping.rules import Automatic, NormClip, PerSampleAdaptive

PARAMS = {"w": jnp.zeros((3, 4)), "b": jnp.zeros(3)}
RULES = {
    "AUTO-S": Automatic(0.7),
    "AUTO-V": Automatic(0.7, stability=0.0),
    "PSAC": PerSampleAdaptive(0.7, r=0.05),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def loss(params, x):
    """A loss whose gradient by b is x[:3], and by w the outer product with x[3:]."""
    return jnp.vdot(params["w"] @ x[3:] + params["b"], x[:3])


def examples(*scales):
    rows = np.random.default_rng(0).normal(size=(len(scales), 7))
    # One side is scaled, so that the gradient is.
    return jnp.asarray(rows * np.array(scales)[:, None] ** ([1] * 3 + [0] * 4))


def gradient(x):
    return np.concatenate([x[:3], np.outer(x[:3], x[3:]).ravel()])


def formula(rule, norm):
    if isinstance(rule, Automatic):
        return rule.l2_norm_clip / (norm + rule.stability)
    return rule.l2_norm_clip / (norm + rule.r / (norm + rule.r))


@every_rule
@pytest.mark.parametrize("engine", ["vmap", "bookkeeping"])
def test_each_gradient_is_scaled_by_the_papers_formula(rule, engine):
    x = examples(1e-3, 0.3, 1.0, 50.0)
    total = clipping.clipped_grad(loss, rule, engine=engine)(PARAMS, x).sum
    grads = [gradient(row) for row in np.asarray(x)]
    expected = sum(formula(rule, np.linalg.norm(g)) * g for g in grads)
    found = np.concatenate([total["b"], np.ravel(total["w"])])
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


@every_rule
@pytest.mark.parametrize("engine", ["vmap", "bookkeeping"])
@pytest.mark.parametrize("scale", [0.0, 1e-41, 1e-30, 1e-8, 1.0, 1e17, 1e30])
def test_no_gradient_is_longer_than_the_clip_norm_not_even_by_rounding(
    rule, engine, scale
):
    fn = clipping.clipped_grad(loss, rule, engine=engine)
    total = flat(fn(PARAMS, examples(scale)).sum).astype(np.float64)
    assert np.linalg.norm(total) <= 0.7
    assert np.isfinite(total).all()


@every_rule
def test_a_gradient_of_zero_and_one_that_is_not_finite_contribute_zero(rule):
    x = examples(1.0, 1.0, 1.0).at[0, :3].set(0.0).at[1, 0].set(jnp.nan)
    total = clipping.clipped_grad(loss, rule)(PARAMS, x).sum
    alone = clipping.clipped_grad(loss, rule)(PARAMS, x[2:]).sum
    np.testing.assert_allclose(flat(total), flat(alone), rtol=1e-6)


@every_rule
def test_sensitivity_is_the_clip_norm_and_static_when_that_is(rule):
    assert rule.sensitivity == 0.7
    fn = clipping.clipped_grad(loss, rule)
    assert isinstance(fn(PARAMS, examples(1.0)).sensitivity, float)
    traced = type(rule)(jnp.float32(0.5))
    assert isinstance(traced.sensitivity, jax.Array)
    scaled = fn(PARAMS, examples(30.0), l2_norm_clip=traced)
    assert float(scaled.sensitivity) == 0.5


@every_rule
def test_a_rule_is_a_pytree_and_a_rule(rule):
    leaves, structure = jax.tree.flatten(rule)
    assert leaves == [0.7]
    assert jax.tree.unflatten(structure, leaves) == rule
    assert isinstance(rule, rules.ClippingRule)
    assert rules.as_rule(rule) is rule


def test_the_largest_factor_of_psac_is_the_documented_one():
    rule = PerSampleAdaptive(1.0, r=0.09)
    norms = jnp.linspace(0, 3, 30_001)
    factors = rule.factors({"w": norms}, {"w": jnp.zeros(3)})["w"]
    assert float(factors.max()) == pytest.approx(1 / (2 * 0.3 - 0.09), rel=1e-4)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Automatic(0.0), "l2_norm_clip"),
        (lambda: Automatic(np.inf), "l2_norm_clip"),
        (lambda: Automatic(1.0, stability=-1.0), "stability"),
        (lambda: PerSampleAdaptive(-1.0), "l2_norm_clip"),
        (lambda: PerSampleAdaptive(1.0, r=0.0), "r="),
        (lambda: PerSampleAdaptive(1.0, r=1.5), "r="),
        (lambda: rules.PerLayer(0.0), "l2_norm_clip"),
        (lambda: rules.PerLayer(1.0, by="size"), "by"),
        (lambda: rules.PerLayer(1.0, depth=0), "depth"),
        (lambda: rules.as_rule({}), "l2_norm_clip"),
    ],
)
def test_settings_out_of_range_are_refused(make, name):
    with pytest.raises(ValueError, match=f"got {name}"):
        make()


@pytest.mark.parametrize("by", ["uniform", "dimension"])
def test_clip_norms_per_leaf_have_the_whole_as_their_sensitivity(by):
    clip_norms = rules.per_layer_clip_norms(PARAMS, 0.6, by=by)
    rule = rules.as_rule(clip_norms)
    assert isinstance(rule, NormClip)
    assert rule.sensitivity == pytest.approx(0.6)
    ratio = 1.0 if by == "uniform" else 2.0
    assert clip_norms["w"] == pytest.approx(ratio * clip_norms["b"])
    total = clipping.clipped_grad(loss, clip_norms)(PARAMS, examples(100.0)).sum
    for name, clip_norm in clip_norms.items():
        assert np.linalg.norm(total[name]) == pytest.approx(clip_norm, rel=1e-5)


def test_layers_are_as_deep_in_the_tree_as_asked_for():
    params = {"a": {"w": jnp.zeros(3), "b": jnp.zeros(1)}, "c": jnp.zeros(12)}
    assert set(rules.per_layer_clip_norms(params, 1.0)) == {"a", "c"}
    deep = rules.per_layer_clip_norms(params, 1.0, by="dimension", depth=2)
    assert deep["a"]["b"] == pytest.approx(0.25)
    assert deep["c"] == pytest.approx(np.sqrt(0.75))
    with pytest.raises(ValueError, match="Expected parameters"):
        rules.per_layer_clip_norms({}, 1.0)


@pytest.mark.parametrize("by", ["uniform", "dimension"])
@pytest.mark.parametrize("engine", ["vmap", "bookkeeping"])
def test_layers_without_parameters_cost_the_others_nothing(engine, by):
    params = PARAMS | {"none": {}, "empty": jnp.zeros((0, 3))}
    rule = rules.PerLayer(0.6, by=by)
    found = clipping.clipped_grad(loss, rule, engine=engine)(params, examples(100.0))
    known = clipping.clipped_grad(loss, rule, engine=engine)(PARAMS, examples(100.0))
    np.testing.assert_array_equal(flat(found.sum), flat(known.sum))
    clip_norms = rules.per_layer_clip_norms(params, 0.6, by=by)
    assert rules.as_rule(clip_norms).sensitivity == pytest.approx(0.6)


@pytest.mark.parametrize("by", ["uniform", "dimension"])
@pytest.mark.parametrize("engine", ["vmap", "bookkeeping"])
def test_per_layer_as_a_rule_does_what_its_clip_norms_do(engine, by):
    clip_norms = rules.per_layer_clip_norms(PARAMS, 0.6, by=by)
    x = examples(1e-3, 0.3, 50.0)
    rule = rules.PerLayer(0.6, by=by)
    found = clipping.clipped_grad(loss, rule, engine=engine)(PARAMS, x)
    expected = clipping.clipped_grad(loss, clip_norms, engine=engine)(PARAMS, x)
    np.testing.assert_array_equal(flat(found.sum), flat(expected.sum))
    assert found.sensitivity == 0.6


def test_the_layers_of_a_model_are_below_the_nodes_of_one_child():
    params = {"params": {"a": {"w": jnp.zeros(3)}, "b": {"w": jnp.zeros(1)}}}
    found = rules.per_layer_clip_norms(params, 1.0, by="dimension", depth=None)
    assert found["params"]["a"] == pytest.approx(np.sqrt(0.75))
    assert rules.per_layer_clip_norms(jnp.zeros(3), 2.0, depth=None) == 2.0
    alone = rules.per_layer_clip_norms({"w": jnp.zeros(3)}, 2.0, depth=None)
    assert alone == {"w": 2.0}
