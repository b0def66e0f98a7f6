"""The optimizer and its learning-rate schedule."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from mmgc_jax.runtime.errors import InputError


def make_schedule(settings: ml_collections.ConfigDict, steps: int) -> optax.Schedule:
    """Makes the learning-rate schedule: linear warm-up, then cosine decay to zero.

    Args:
      settings: `learning_rate`, the peak, and `warmup`, the share of the steps in which the rate
        rises.
      steps: number of steps of the whole training.

    Returns:
      A function from the number of a step to its learning rate.
    """
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=settings.learning_rate,
        # At least one step of warm-up and one of decay.
        warmup_steps=max(1, min(round(settings.warmup * steps), steps - 1)),
        decay_steps=max(2, steps),
    )


def make_optimizer(settings: ml_collections.ConfigDict, steps: int) -> optax.GradientTransformation:
    """Makes an AdamW optimizer (arXiv 1711.05101) with gradient clipping by global norm.

    Weight decay applies only to the parameters that Flax calls `kernel`: the weight matrices of
    dense, convolutional and recurrent layers. Biases, scales, word vectors and the weights of late
    fusion do not decay.

    Args:
      settings: the settings of `make_schedule`, and `weight_decay`, `clip_norm` and
        `learning_rate_scale`: factors of the learning rate for parts of the parameters, by
        top-level name, 1 for parts not listed. A factor of 0 freezes a part; `zero_frozen` must
        have set its gradients to zero.
      steps: number of steps of the whole training.

    Raises:
      InputError: from the optimizer's `init`, if `learning_rate_scale` names a part that does not
        exist.
    """
    schedule = make_schedule(settings, steps)
    scales = settings.learning_rate_scale.to_dict()

    def adamw(scale: float) -> optax.GradientTransformation:
        return optax.adamw(
            lambda step: scale * schedule(step),
            weight_decay=settings.weight_decay,
            mask=lambda params: jax.tree_util.tree_map_with_path(_is_kernel, params),
        )

    def scale_of(params):
        if unknown := scales.keys() - params.keys():
            raise InputError(
                f"learning_rate_scale names {', '.join(sorted(unknown))}; the model's parts are "
                f"{', '.join(sorted(params))}."
            )
        return {
            name: jax.tree.map(lambda _, part=name: scales.get(part, 1.0), tree)
            for name, tree in params.items()
        }

    values = {1.0, *scales.values()}
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.multi_transform(
            {value: adamw(value) if value else optax.set_to_zero() for value in values}, scale_of
        ),
    )


def zero_frozen(gradients: Any, settings: ml_collections.ConfigDict) -> Any:
    """Sets the gradients of frozen parts to zero.

    They then do not count in the norm for clipping, and XLA can skip their computation.

    Args:
      gradients: a tree with the structure of the parameters.
      settings: settings of the optimizer; parts with a factor of 0 in `learning_rate_scale` are
        frozen.

    Returns:
      A tree like `gradients`.
    """
    scales = settings.learning_rate_scale
    return {
        name: tree if scales.get(name, 1.0) else jax.tree.map(jnp.zeros_like, tree)
        for name, tree in gradients.items()
    }


def _is_kernel(path, _) -> bool:
    return path[-1].key == "kernel"
