import jax.numpy as jnp
import pytest

from dpjax.clipping import rules
from dpjax.mechanism.clip_norms import describe_clip, static_sensitivity


def test_clip_norms_of_groups_are_described_by_path():
    clip = {"a": 3.0, "b": {"c": 4.0}}
    assert describe_clip(clip) == {"['a']": 3.0, "['b']['c']": 4.0}
    assert static_sensitivity(clip) == 5.0


def test_a_number_and_a_rule_are_described_as_they_are():
    assert describe_clip(0.5) == 0.5
    assert "Automatic" in describe_clip(rules.Automatic(0.5))


@pytest.mark.parametrize("clip", [jnp.float32(1.0), 0.0, -1.0])
def test_a_clip_norm_that_is_no_constant_is_refused(clip):
    with pytest.raises(ValueError, match="Expected"):
        static_sensitivity(clip)
