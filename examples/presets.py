"""Flag values that belong together, by name. What the command line gives, counts more.

Each says what it is for; README has the accuracies that were measured with them.
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # The main job: 4,000 real digits, a minute or two on two cores.
    "mnist_5k": {
        "dataset": "mnist_5k",
        "model": "group_norm_cnn",
        "target_epsilon": 3.0,
        "delta": 1e-4,
        "l2_norm_clip": 0.5,
        "batch_size": 1000,
        "steps": 100,
        "optimizer": "adam",
        "learning_rate": 0.01,
        "microbatch_size": 32,
        "probe_every": 10,
    },
    # The setting of Papernot et al. (2021): 86.1 % at (2.7, 1e-5).
    "fashion_mnist_tanh": {
        "dataset": "fashion_mnist",
        "model": "tanh_cnn",
        "target_epsilon": 2.7,
        "delta": 1e-5,
        "l2_norm_clip": 1.0,
        "batch_size": 2000,
        "steps": 1200,
        "optimizer": "adam",
        "learning_rate": 0.005,
        "schedule": "cosine",
        "microbatch_size": 32,
    },
    # The best of the configurations that were tried at the same epsilon.
    "fashion_mnist_best": {
        "dataset": "fashion_mnist",
        "model": "scatter_linear",
        "features": "scattering",
        "target_epsilon": 2.7,
        "delta": 1e-5,
        "l2_norm_clip": 1.0,
        "batch_size": 6000,
        "steps": 300,
        "optimizer": "momentum",
        "learning_rate": 1.0,
        "ema_decay": 0.95,
        "microbatch_size": 250,
    },
    # A table: census rows, and whether the income is above 50,000 dollars.
    "adult": {
        "dataset": "adult",
        "model": "mlp",
        "target_epsilon": 1.0,
        "delta": 1e-5,
        "l2_norm_clip": 1.0,
        "batch_size": 1024,
        "epochs": 10.0,
        "optimizer": "momentum",
        "learning_rate": 0.5,
    },
}

OF_DATASET = {
    "mnist_5k": "mnist_5k",
    "fashion_mnist": "fashion_mnist_tanh",
    "adult": "adult",
}
"""The preset of a data set when no --preset is given."""
