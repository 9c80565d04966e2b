import numpy as np
import optax
import pytest

from dpjax.noise.correlated import series, workload, workloads


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_a_workload_is_what_sgd_makes_of_one_gradient(momentum, weight_decay):
    rate = 1.0
    optimizer = optax.chain(
        optax.trace(momentum),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(rate),
    )
    params = np.float32(0)
    state = optimizer.init(params)
    found = []
    for t in range(12):
        gradient = np.float32(t == 0)
        update, state = optimizer.update(gradient, state, params)
        params = params + update
        found.append(-float(params))
    column = workload(12, momentum=momentum, weight_decay=weight_decay)
    np.testing.assert_allclose(found, column, rtol=1e-5)


def test_the_root_squared_is_the_workload():
    root = workloads.root(40, momentum=0.8, weight_decay=0.05)
    column = workload(40, momentum=0.8, weight_decay=0.05)
    np.testing.assert_allclose(series.product(root, root, 40), column, rtol=1e-12)


@pytest.mark.parametrize(
    "options", [{"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": 1.0}]
)
def test_what_is_no_fraction_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        workload(3, **options)


@pytest.mark.parametrize("column", [np.ones(3), np.full(4, np.nan), np.zeros(4)])
def test_a_workload_that_is_none_is_refused(column):
    with pytest.raises(ValueError, match="workload"):
        workloads.checked(column, 4)
