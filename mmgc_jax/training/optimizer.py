"""The optimizer and its learning-rate schedule."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from mmgc_jax.runtime.errors import InputError


def make_schedule(settings: ml_collections.ConfigDict, steps: int) -> optax.Schedule:
    """The learning rate at each step: linear warm-up, then cosine decay to zero.

    Args:
      settings: `learning_rate`, the peak, and `warmup`, a share of the steps.
      steps: of the whole training.
    """
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=settings.learning_rate,
        # At least a step of each.
        warmup_steps=max(1, min(round(settings.warmup * steps), steps - 1)),
        decay_steps=max(2, steps),
    )


def make_optimizer(settings: ml_collections.ConfigDict, steps: int) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101) with clipped gradients.

    Weight decay acts on kernels alone: it spares biases, scales, word vectors and fusion weights.

    Args:
      settings: as of `make_schedule`, and `weight_decay`, `clip_norm` and `learning_rate_scale`:
        factors for parts of the parameters, by top-level name. A part with factor 0 is frozen: its
        gradients, which `zero_frozen` has set to zero, change nothing.
      steps: of the whole training.

    Raises:
      InputError: by `init`, if `learning_rate_scale` names a part that the parameters lack.
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
                f"learning_rate_scale names {', '.join(sorted(unknown))}; the parameters have the "
                f"parts {', '.join(sorted(params))}."
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

    They then have no share in the norm, and XLA does not compute them.

    Args:
      gradients: a tree like the parameters.
      settings: as of `make_optimizer`.
    """
    scales = settings.learning_rate_scale
    return {
        name: tree if scales.get(name, 1.0) else jax.tree.map(jnp.zeros_like, tree)
        for name, tree in gradients.items()
    }


def _is_kernel(path, _) -> bool:
    return path[-1].key == "kernel"
