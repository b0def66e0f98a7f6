"""The training loop: one jitted step and one loop for all models."""

import functools
import time
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from mmgc_jax.data import pipeline
from mmgc_jax.runtime import parallel, preemption
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import flush_lines
from mmgc_jax.training import checkpoints
from mmgc_jax.training.logging import TrainingLog, logger
from mmgc_jax.training.optimizer import make_optimizer, make_schedule, zero_frozen
from mmgc_jax.training.run import ApplyFn, TrainingRun

# Epochs that take less time than this do not each get a checkpoint.
_SECONDS_BETWEEN_CHECKPOINTS = 10.0


@flax.struct.dataclass
class TrainState:
    """The state that a training step updates.

    Attributes:
      step: number of steps done, <int32>[].
      params: parameters of the model.
      opt_state: state of the optimizer.
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState


@flax.struct.dataclass
class StepMetrics:
    """The metrics of one training step, all <float32>[] except `finite`, <bool>[].

    Attributes:
      loss: the loss before the update.
      grad_norm: global norm of the gradients before clipping, without frozen parts.
      learning_rate: learning rate of this step, before the factors of `learning_rate_scale`.
      finite: whether the loss, the norm of the gradients and all updated parameters are finite. The
        norm is checked as well, because clipping turns gradients of infinite norm into zeros.
    """

    loss: jax.Array
    grad_norm: jax.Array
    learning_rate: jax.Array
    finite: jax.Array


def multilabel_loss(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Computes the binary cross-entropy, averaged over the genres and the movies of a batch.

    Args:
      logits: <float32>[batch, genres].
      labels: <float32>[batch, genres], 0 or 1.
      mask: <float32>[batch], 1 for a movie, 0 for a row of padding, which is left out.

    Returns:
      <float32>[], in nats.
    """
    losses = optax.sigmoid_binary_cross_entropy(logits, labels)
    return jnp.sum(losses.mean(axis=-1) * mask) / jnp.maximum(mask.sum(), 1)


def is_finite(tree: Any) -> jax.Array:
    """Returns whether all values of all arrays of a tree are finite, <bool>[]."""
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def make_train_step(
    apply: ApplyFn, settings: ml_collections.ConfigDict, steps: int, shardings: Any = None
):
    """Makes the jitted training step.

    Args:
      apply: forward pass of the model.
      settings: settings of the optimizer; see `make_optimizer`.
      steps: number of steps of the whole training, for the learning-rate schedule.
      shardings: shardings of the state, from `parallel.shardings`; None lets XLA choose them.

    Returns:
      `step(state, batch, seed) -> (state, StepMetrics)`. It donates the state: the buffers of the
      old state are reused for the new one, so the old state can no longer be read. Trainings with
      equal arguments, such as those of all folds, get the same function, which is compiled once.
    """
    leaves, structure = jax.tree.flatten(shardings)
    frozen = ml_collections.FrozenConfigDict(settings)
    return _cached_train_step(apply, frozen, steps, tuple(leaves), structure)


# A fold can have several phases, each with a step of its own.
@functools.lru_cache(maxsize=4)
def _cached_train_step(apply, settings, steps: int, sharding_leaves, sharding_structure):
    """Makes the step of `make_train_step`, from arguments that can be hashed."""
    shardings = jax.tree.unflatten(sharding_structure, sharding_leaves)
    optimizer, schedule = make_optimizer(settings, steps), make_schedule(settings, steps)

    def step(state: TrainState, batch, seed) -> tuple[TrainState, StepMetrics]:
        step_key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss_of(params):
            logits = apply(params, batch, step_key)
            return multilabel_loss(logits, batch["labels"], batch["mask"])

        loss, gradients = jax.value_and_grad(loss_of)(state.params)
        gradients = zero_frozen(gradients, settings)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        grad_norm = optax.global_norm(gradients)
        metrics = StepMetrics(
            loss=loss,
            grad_norm=grad_norm,
            learning_rate=jnp.asarray(schedule(state.step), jnp.float32),
            finite=is_finite((loss, grad_norm, params)),
        )
        return TrainState(state.step + 1, params, opt_state), metrics

    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(shardings, None),
        compiler_options=apply.compiler_options,
    )


def fit(
    run: TrainingRun,
    apply: ApplyFn,
    params: Any,
    batches: pipeline.Batches,
    settings: ml_collections.ConfigDict,
) -> Any:
    """Trains a model for all epochs, and returns its parameters.

    No movies are held out to stop early: the learning rate ends at zero, and the number of epochs
    is a setting. A finished training is read from its checkpoint. An unfinished one resumes from
    its latest checkpoint; the remaining steps then use the same batches and random numbers as an
    uninterrupted training.

    Args:
      run: the training run; it names the folder of the checkpoints.
      apply: forward pass of the model.
      params: initial parameters.
      batches: the batches of all epochs.
      settings: settings of the optimizer (see `make_optimizer`); and `log_every` and
        `checkpoint_every`, in steps.

    Returns:
      The parameters after the last step.

    Raises:
      InputError: if the loss, the gradients or the parameters are not finite.
      Interrupted: if a stop was requested (SIGTERM or Ctrl-C), after the current step is finished
        and saved.
    """
    state, shardings = _initial_state(run, params, settings, len(batches), parallel.data_mesh())
    if (finished := checkpoints.restore(run.checkpoints / "trained", state.params)) is not None:
        return finished
    with _Training(run, apply, state, shardings, batches, settings) as training:
        training.run()
    return training.state.params


def restore_trained(run: TrainingRun) -> Any:
    """Reads the parameters of a finished training run, as NumPy arrays.

    Raises:
      InputError: if the training has not finished, or its checkpoint is damaged.
    """
    restored = checkpoints.restore(run.checkpoints / "trained")
    if restored is None:
        raise InputError(f"{run.checkpoints} has no trained parameters: has {run.name} finished?")
    return restored


class _Training:
    """Runs a training: steps, logging and checkpoints."""

    def __init__(self, run, apply, state, shardings, batches, settings):
        """Restores the latest checkpoint; see `fit` for the other arguments.

        Args:
          state: the state before the first step.
          shardings: its shardings.
        """
        self.state = state
        self._run, self._batches, self._settings = run, batches, settings
        self._mesh = parallel.data_mesh()
        self._step_function = make_train_step(apply, settings, len(batches), shardings)
        if (restored := checkpoints.restore(run.checkpoints / "latest", self.state)) is not None:
            self.state = restored
            logger.info("%s: continues after step %d of %d.",
                        run.name, self.state.step, len(batches))  # fmt: skip
        self._saved_at = time.monotonic()
        self._unreported: list[StepMetrics] = []
        start = int(self.state.step)
        self._log = TrainingLog(
            run, len(batches), batches.steps_per_epoch, batches.num_movies, start
        )

    def __enter__(self) -> "_Training":
        return self

    def __exit__(self, *_) -> None:
        self._log.close()

    def run(self) -> None:
        """Trains from the current state until the end."""
        start = int(self.state.step)
        arriving = iter(pipeline.iterate(self._batches, start, self._run.workers))
        for step, batch in enumerate(self._log.timed(arriving), start=start + 1):
            if step == start + 1:
                self._log.compiling()
            self._train(batch)
            if step == start + 1:
                jax.block_until_ready(self._unreported)
                self._log.first_step_done()
            self._after_step(step)
        # Written before the checkpoint: if the process is killed in between, some lines of
        # metrics.jsonl are repeated, but none is lost.
        flush_lines()
        checkpoints.save(self._run.checkpoints / "trained", len(self._batches), self.state.params)

    def _train(self, batch: dict[str, np.ndarray]) -> None:
        batch = parallel.shard_batch(batch, self._mesh)
        self.state, metrics = self._step_function(self.state, batch, np.uint32(self._run.seed))
        self._unreported.append(metrics)

    def _after_step(self, step: int) -> None:
        """Logs and saves if this step is due for it."""
        settings = self._settings
        is_last = step == len(self._batches)
        epoch_ends = step % self._batches.steps_per_epoch == 0
        logs = step % settings.log_every == 0
        # With several processes `requested` is a collective, so it is not called at every step.
        stops = (logs or parallel.is_alone()) and preemption.requested()
        saves = step % settings.checkpoint_every == 0 or stops
        if epoch_ends and not saves:
            seconds = time.monotonic() - self._saved_at
            saves = bool(parallel.broadcast(seconds > _SECONDS_BETWEEN_CHECKPOINTS))
        if logs or saves or epoch_ends:
            self._report(step)
        if epoch_ends:
            self._log.epoch_done(step // self._batches.steps_per_epoch)
        if saves and not is_last:
            flush_lines()
            checkpoints.save(self._run.checkpoints / "latest", step, self.state, keep=2)
            self._saved_at = time.monotonic()
            preemption.raise_if_requested()

    def _report(self, step: int) -> None:
        """Logs the steps since the last report; raises `InputError` if one was not finite."""
        metrics = jax.device_get(self._unreported)
        self._unreported = []
        for earlier, found in enumerate(metrics, start=step - len(metrics) + 1):
            if not found.finite:
                raise self._diverged(earlier, found)
        loss = float(np.mean([found.loss for found in metrics]))
        last = metrics[-1]
        self._log.steps_done(
            step,
            {
                "loss": loss,
                "grad_norm": float(last.grad_norm),
                "learning_rate": float(last.learning_rate),
            },
        )

    def _diverged(self, step: int, metrics: StepMetrics) -> InputError:
        """Makes the error for a step that was not finite; it names the movies of the batch."""
        if not np.isfinite(metrics.loss):
            what = f"the loss at step {step} is {metrics.loss}"
        elif not np.isfinite(metrics.grad_norm):
            what = f"the gradient at step {step}, or its norm, is not finite"
        else:
            what = f"the parameters after step {step} are not all finite"
        batch = self._batches[step - 1]
        movies = ", ".join(self._run.movie(index) for index in batch["indices"][batch["mask"] > 0])
        return InputError(
            f"{self._run.name}: {what} (movies {movies}). The last checkpoint before it is kept. "
            "Try a smaller learning_rate or clip_norm in "
            f"config.{self._run.field}, in a new --workdir."
        )


def _initial_state(
    run: TrainingRun, params: Any, settings: ml_collections.ConfigDict, steps: int, mesh
) -> tuple[TrainState, Any]:
    """Makes the state before the first step; returns it and its shardings."""
    optimizer = make_optimizer(settings, steps)

    def begin(params) -> TrainState:
        # A copy, since the step donates its state and would delete the caller's parameters.
        copied = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), copied, optimizer.init(params))

    # Placed with its sharding from the start: no device has to hold all of the parameters.
    shardings = parallel.shardings(jax.eval_shape(begin, params), mesh, run.split_parameters)
    placed = parallel.place(params, shardings.params)
    return jax.jit(begin, out_shardings=shardings)(placed), shardings
