"""What a curvature study suggests for learning rate, clip norm and batch size.

Each sentence states the number that it rests on. All of it is about the final
parameters, one step, a quadratic, and the examples of the study: a hint what to try,
which a run must confirm.
"""

import math

from dpjax.report import page
from dpjax.report.folder import as_number
from dpjax.report.study import Step, Study

_SHOWN = page.number_short
_MANY, _FEW = 0.9, 0.1
_STRAIGHT = 0.95
_MUCH, _LITTLE = 0.5, 0.1


def learning_rate(study: Study) -> list[str]:
    """Say what sharpness and noise suggest for the learning rate."""
    return [*_stability(study), *_best_rate(study)]


def _stability(study: Study) -> list[str]:
    sharpness = study.sharpness
    if not sharpness > 0 or math.isinf(sharpness):
        return ["No direction of positive curvature was found: no bound follows."]
    found = (
        f"The sharpness is {_SHOWN(sharpness)}. On a quadratic of this curvature, "
        f"gradient descent without momentum converges only below a learning rate of "
        f"2 / sharpness = {_SHOWN(2 / sharpness)}."
    )
    rate = as_number(study.run.config["settings"].get("learning_rate"))
    return [found] if rate is None else [found, *_of_optimizer(study, rate)]


def _of_optimizer(study: Study, rate: float) -> list[str]:
    """Return what the bound says of the run's own optimizer."""
    bound, settings = 2 / study.sharpness, study.run.config["settings"]
    if settings.get("optimizer") == "sgd":
        return [_beside_bound(rate, bound)]
    if settings.get("optimizer") == "momentum":
        given = as_number(settings.get("momentum"))
        momentum = 0.9 if given is None else given
        bound *= 1 + momentum
        heavy = (
            f"With momentum {_SHOWN(momentum)} it is "
            f"2 (1 + momentum) / sharpness = {_SHOWN(bound)}."
        )
        return [heavy, _beside_bound(rate, bound)]
    return [
        f"This run's optimizer rescales every coordinate: its learning rate of "
        f"{_SHOWN(rate)} cannot be compared with that bound, nor with the rates "
        "below, which are those of plain SGD."
    ]


def _beside_bound(rate: float, bound: float) -> str:
    times = f"The run's learning rate of {_SHOWN(rate)} is {_SHOWN(rate / bound)} of it"
    if rate > bound:
        return (
            f"{times}: above. Along the sharpest direction steps overshoot more than "
            "they gain. A smaller rate, or a schedule that ends lower, is worth a try."
        )
    if rate > bound / 5:
        return (
            f"{times}: below, within a factor of five. Not much room for a larger one."
        )
    return (
        f"{times}: far below. Stability is not what limits it; whether the noise "
        "does is said below."
    )


def _best_rate(study: Study) -> list[str]:
    step = study.step
    if step is None:
        return []
    rate = as_number(study.run.config["settings"].get("learning_rate"))
    found = [_best_sentence(step)]
    bound = 2 / study.sharpness if study.sharpness > 0 else math.inf
    if step.best_loss_change is not None and step.best_learning_rate > bound:
        found.append(
            "That it exceeds 2 / sharpness is no contradiction: it multiplies the "
            f"clipped gradient, which is {_SHOWN(step.norm_ratio)} times as long as "
            "the raw one, and it is about one step, not about many."
        )
    if study.run.config["settings"].get("optimizer") == "sgd" and rate is not None:
        found.append(
            f"At the run's {_SHOWN(rate)} the forecast is a change of the loss by "
            f"{_SHOWN(step.loss_change)} a step, of which the noise costs "
            f"0.5 η² s² tr H = {_SHOWN(step.noise_cost)}."
        )
    if abs(study.trace) < 2 * study.trace_stderr:
        found.append(
            "The trace is within two standard errors of zero, and so is the cost of "
            "the noise: these forecasts are guesses."
        )
    return found


def _best_sentence(step: Step) -> str:
    if step.best_loss_change is not None:
        return (
            f"With the run's clipping and noise, a step of plain SGD is expected to do "
            f"most at a learning rate of {_SHOWN(step.best_learning_rate)}: the loss "
            f"then changes by {_SHOWN(step.best_loss_change)}."
        )
    if math.isinf(step.best_learning_rate):
        return (
            "The curvature along the step and of the noise is not positive here: the "
            "forecast has no best learning rate."
        )
    return (
        "The clipped gradient of these examples does not point downhill: no learning "
        "rate is expected to help."
    )


def clip_norm(study: Study) -> list[str]:
    """Say what the clipped gradients suggest for the clip norm."""
    step = study.step
    if step is None:
        return ["This run does not clip."]
    return [_clipped_sentence(step), _turned_sentence(step)]


def _clipped_sentence(step: Step) -> str:
    share = f"{page.percent(step.fraction_clipped)} of these examples' gradients are"
    start = f"{share} longer than the clip norm of {_SHOWN(step.clip_norm)}."
    if step.fraction_clipped >= _MANY:
        return (
            f"{start} The step then follows directions alone: a smaller clip norm "
            "shrinks signal and noise alike, as a smaller learning rate does."
        )
    if step.fraction_clipped <= _FEW:
        return (
            f"{start} The noise is as large as if all were: a lower clip norm would "
            "lower it at the same epsilon, and lose little of the gradient."
        )
    return f"{start} Neither nearly all nor hardly any."


def _turned_sentence(step: Step) -> str:
    start = (
        f"Clipped and raw mean gradient have a cosine of {_SHOWN(step.cosine)}, and "
        f"lengths in the ratio {_SHOWN(step.norm_ratio)}."
    )
    if math.isnan(step.cosine):
        return "One of clipped and raw mean gradient is zero: they cannot be compared."
    if step.cosine >= _STRAIGHT:
        return (
            f"{start} Clipping hardly turns the step; its length is made up for by "
            "the learning rate."
        )
    turned = f"{start} Clipping turns the step, which no learning rate takes back."
    if step.noise_share is not None and step.noise_share < _LITTLE:
        return (
            f"{turned} The noise costs little (see below), so a larger clip norm is "
            "worth a try; at the same noise multiplier it leaves epsilon as it is."
        )
    return f"{turned} A larger clip norm turns it less, and brings more noise."


def batch_size(study: Study) -> list[str]:
    """Say what the noise costs, and what twice the batch would change."""
    step = study.step
    if step is None:
        return ["This run adds no noise, so its batch size has no part in privacy."]
    noise = (
        f"The noise has a standard deviation of s = {_SHOWN(step.noise_std)} in each "
        f"of {study.num_parameters:,} coordinates of the mean gradient, and the trace "
        f"says how much of that the loss feels: {_SHOWN(study.trace)}."
    )
    if step.noise_share is None:
        return [noise]
    return [noise, _share_sentence(step.noise_share), *_double_sentence(step)]


def _share_sentence(share: float) -> str:
    start = (
        "At its best learning rate, a step loses "
        f"{page.percent(share)} of what it could gain without the noise."
    )
    if share > _MUCH:
        return (
            f"{start} Noise is what holds it back: a larger batch, fewer parameters or "
            "flatter surroundings would help."
        )
    if share < _LITTLE:
        return (
            f"{start} Noise is not what holds it back; a larger batch changes little."
        )
    return f"{start} Noise and curvature both count."


def _double_sentence(step: Step) -> list[str]:
    if step.double_noise_ratio is None or step.noise_share is None:
        return []
    if not (0 <= step.noise_share <= 1 and 0 < step.double_noise_ratio <= 1):
        return []
    kept = 1 - step.noise_share * (1 - step.double_noise_ratio**2)
    return [
        "Twice the batch, for as many steps and the same epsilon, needs a noise "
        f"multiplier of {_SHOWN(step.double_noise_multiplier or math.nan)}. Its s is "
        f"{_SHOWN(step.double_noise_ratio)} of the present one, which adds "
        f"{page.percent(1 / kept - 1)} to the gain of the best step, at twice the work."
    ]
