"""Training: one jitted step and one loop that serve every model."""

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from tqdm import tqdm

from mmgc_jax.data import pipeline
from mmgc_jax.runtime import parallel, preemption
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, append_line
from mmgc_jax.runtime.progress import SECONDS_BETWEEN_LINES
from mmgc_jax.training import checkpoints

logger = logging.getLogger(__name__)

# apply(params, batch, key) -> logits; key is None where nothing is to be random.
ApplyFn = Callable[[Any, dict[str, jax.Array], jax.Array | None], jax.Array]


@flax.struct.dataclass
class TrainState:
    """All that changes from step to step."""

    step: jax.Array
    params: Any
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Run:
    """One training among those of an experiment, as it appears in files and logs.

    Attributes:
      name: such as `plot` or `plot/fold_1`.
      workdir: of the experiment; checkpoints go to `checkpoints/<name>` in it.
      seed: of shuffling, dropout and augmentation.
      workers: processes that prepare batches, for each process that trains.
      split_parameters: over the devices, optimiser state too; see `parallel.shardings`.
      movie: the index of a movie in the corpus -> what an error calls it.
    """

    name: str
    workdir: Path
    seed: int
    workers: int = 0
    split_parameters: bool = False
    movie: Callable[[int], str] = str

    @property
    def settings_name(self) -> str:
        """Where the config has the settings of this training, such as `poster.head_training`."""
        stage, *_, last = self.name.split("/") * 2
        if stage.startswith("fusion"):
            return "fusion"  # each kind has its own
        part = {"plot_transformer": "transformer", "poster_grey": "poster"}.get(stage, stage)
        return f"{part}.{'head_training' if last == 'head' else 'training'}"

    @property
    def checkpoints(self) -> Path:
        return self.workdir / "checkpoints" / self.name


def make_apply(
    model, inputs: Sequence[str], augment: Callable[[jax.Array, dict], dict] | None = None
) -> ApplyFn:
    """The function from parameters and a batch to logits that `fit` and `evaluate` call.

    Args:
      model: a Flax module that returns (logits, intermediates).
      inputs: the names of the batch's arrays that the module takes, in order.
      augment: changes a training batch, from a random key; None leaves it as it is.
    """

    def apply(params, batch, key):
        if key is None:
            return model.apply({"params": params}, *(batch[name] for name in inputs))[0]
        augment_key, dropout_key = jax.random.split(key)
        if augment is not None:
            batch = augment(augment_key, batch)
        arguments = (batch[name] for name in inputs)
        variables = {"params": params}
        return model.apply(variables, *arguments, train=True, rngs={"dropout": dropout_key})[0]

    return apply


def multilabel_loss(logits, labels, mask, positive_weights) -> jax.Array:
    """Binary cross-entropy, averaged over genres and the movies of a padded batch.

    Args:
      logits: <float32>[batch, genres].
      labels: <float32>[batch, genres], 0 or 1.
      mask: <float32>[batch], 0 for padding.
      positive_weights: <float32>[genres], factors of the loss of a present genre.
    """
    losses = optax.sigmoid_binary_cross_entropy(logits, labels)
    losses = losses * jnp.where(labels > 0, positive_weights, 1)
    return jnp.sum(losses.mean(axis=-1) * mask) / jnp.maximum(mask.sum(), 1)


def positive_weights(labels: np.ndarray, strength: float) -> np.ndarray:
    """Weights that make rare genres count: (negatives / positives) ** strength.

    Args:
      labels: <float32>[movies, genres], of the training part.
      strength: 0 weighs all alike, 1 balances each genre fully.

    Returns:
      <float32>[genres].
    """
    positives = np.maximum(labels.sum(axis=0), 1)
    return np.float32((np.maximum(len(labels) - positives, 1) / positives) ** strength)


def make_optimizer(settings: ml_collections.ConfigDict, steps: int) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101) with warm-up, cosine decay to zero and clipped gradients.

    Weight decay acts on kernels alone: it spares biases, scales, word vectors and fusion weights.

    Args:
      settings: `learning_rate`, `warmup` (a share of the steps), `weight_decay`, `clip_norm`, and
        `learning_rate_scale`: factors for parts of the parameters, by top-level name; a part with
        factor 0 is frozen and costs nothing.
      steps: of the whole training.

    Raises:
      InputError: by `init`, if `learning_rate_scale` names a part that there is not.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=settings.learning_rate,
        warmup_steps=max(1, round(settings.warmup * steps)),
        decay_steps=max(2, steps),
    )
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
        # First, so that frozen parts have no share in the norm.
        optax.multi_transform(
            {value: optax.identity() if value else optax.set_to_zero() for value in values},
            scale_of,
        ),
        optax.clip_by_global_norm(settings.clip_norm),
        optax.multi_transform(
            {value: adamw(value) if value else optax.set_to_zero() for value in values}, scale_of
        ),
    )


def _is_kernel(path, _) -> bool:
    return path[-1].key == "kernel"


def is_finite(tree: Any) -> jax.Array:
    """Whether all values of all arrays are finite, <bool>[]."""
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def make_train_step(apply: ApplyFn, optimizer, shardings: Any = None):
    """The jitted step: (state, batch, seed, weights) -> (state, loss). The state given is used up.

    The loss, which is never negative, is minus infinity where it is finite and its gradient is not.
    Nothing but the shapes, the model and the optimiser is compiled in, so that the models of all
    folds find the same step in the compilation cache. The state stays where `shardings` says, as of
    `parallel.shardings`; None leaves it to XLA.
    """

    def step(state: TrainState, batch, seed, weights) -> tuple[TrainState, jax.Array]:
        step_key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss_of(params):
            logits = apply(params, batch, step_key)
            return multilabel_loss(logits, batch["labels"], batch["mask"], weights)

        loss, gradients = jax.value_and_grad(loss_of)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # Updates and not gradients, which frozen parts need not compute.
        loss = jnp.where(is_finite(updates) | ~jnp.isfinite(loss), loss, -jnp.inf)
        return TrainState(state.step + 1, params, opt_state), loss

    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def fit(
    run: Run,
    apply: ApplyFn,
    params: Any,
    batches: pipeline.Batches,
    validate: Callable[[Any], dict[str, float]],
    settings: ml_collections.ConfigDict,
    weights: np.ndarray,
) -> Any:
    """Trains until the last step, or until validation has not improved for a while.

    Goes on from the latest checkpoint if there is one; steps, batches and random numbers are then
    the same as without the interruption.

    Args:
      run: names the training and the place of its checkpoints.
      apply: the model.
      params: to begin with.
      batches: of all epochs.
      validate: params -> figures, `auc_macro` among them; called at the end of each epoch.
      settings: those of `make_optimizer`, and `patience`: epochs without improvement after which
        training stops.
      weights: as of `positive_weights`.

    Returns:
      The parameters with the best `auc_macro` on validation.

    Raises:
      InputError: if the loss or the parameters are not finite, or validation cannot tell good from
        bad.
      Interrupted: if the process was asked to stop; the step in flight is then finished and saved.
    """
    mesh = parallel.data_mesh()
    optimizer = make_optimizer(settings, len(batches))

    def begin(params) -> TrainState:
        # A copy, since the step uses its state up.
        copied = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), copied, optimizer.init(params))

    # Nothing that is to be split is ever whole on a device.
    where = parallel.shardings(jax.eval_shape(begin, params), mesh, run.split_parameters)
    state = jax.jit(begin, out_shardings=where)(parallel.place(params, where.params))
    train_step = make_train_step(apply, optimizer, where)
    progress = {"best_auc": -1.0, "best_epoch": 0, "done": False}
    if (restored := checkpoints.restore(run.checkpoints / "latest", state)) is not None:
        state, progress = restored
        logger.info("%s: goes on after step %d of %d.", run.name, state.step, len(batches))

    def end_epoch(step: int) -> None:
        epoch = step // batches.steps_per_epoch
        try:
            figures = validate(state.params)
        except preemption.Interrupted:
            unvalidated = progress | {"validate": True}
            checkpoints.save(run.checkpoints / "latest", step, state, unvalidated, keep=2)
            raise
        if math.isnan(figures["auc_macro"]):
            raise InputError(
                f"{run.name}: the macro AUC on the validation part is undefined, since each genre "
                "has all of its movies or none. More movies are needed, or a larger "
                "config.data.validation_fraction."
            )
        if figures["auc_macro"] > progress["best_auc"]:
            progress.update(best_auc=figures["auc_macro"], best_epoch=epoch)
            checkpoints.save(run.checkpoints / "best", step, state.params, figures)
        stalled = epoch - progress["best_epoch"] >= settings.patience
        progress["done"] = stalled or step == len(batches)
        reporter.report_validation(step, epoch, figures)

    start = int(state.step)
    if not progress["done"]:
        reporter = _Reporter(run, batches, start)
        if progress.pop("validate", False):
            end_epoch(start)
        losses = []
        left = () if progress["done"] else pipeline.iterate(batches, start, run.workers)
        for step, batch in enumerate(reporter.watch(iter(left)), start=start + 1):
            state, loss = train_step(
                state, parallel.shard_batch(batch, mesh), np.uint32(run.seed), weights
            )
            losses.append(loss)
            if step == start + 1:
                jax.block_until_ready(loss)
                reporter.first_step_done()
            end_of_epoch = step % batches.steps_per_epoch == 0
            logs = step % settings.log_every == 0
            # Several processes agree on it, for which they wait for one another.
            stops = (logs or parallel.is_alone()) and preemption.requested()
            save = end_of_epoch or step % settings.checkpoint_every == 0 or stops
            if save or logs:
                reporter.report(step, _mean_loss(run, batches, step, losses))
                losses = []
            if save:
                _check_finite(run, step, state.params)
            if end_of_epoch:
                end_epoch(step)
            if save:
                checkpoints.save(run.checkpoints / "latest", step, state, progress, keep=2)
                preemption.raise_if_requested()
            if progress["done"]:
                break
        reporter.close()
    return restore_best(run, state.params)


def restore_best(run: Run, like: Any = None) -> Any:
    """The best parameters of a training; see `fit`.

    Raises:
      InputError: if there are none.
    """
    restored = checkpoints.restore(run.checkpoints / "best", like)
    if restored is None:
        raise InputError(f"{run.checkpoints} holds no trained parameters: has {run.name} finished?")
    return restored[0]


def _mean_loss(run: Run, batches: pipeline.Batches, step: int, losses: list[jax.Array]) -> float:
    """The mean of what the steps up to this one returned, all of which have to be finite."""
    values = np.array(jax.device_get(losses))
    if not np.isfinite(values).all():
        first = int(np.argmin(np.isfinite(values)))
        bad_step, value = step - len(values) + 1 + first, values[first]
        what = f"the loss at step {bad_step} is {value}"
        if value == -np.inf:
            what = (
                f"the gradient at step {bad_step} is not finite, so that the parameters after step "
                f"{bad_step} are not all finite"
            )
        batch = batches[bad_step - 1]
        movies = ", ".join(run.movie(index) for index in batch["indices"][batch["mask"] > 0])
        raise _diverged(run, f"{what} (movies {movies})")
    return float(values.mean())


def _check_finite(run: Run, step: int, params: Any) -> None:
    """A loss tells of the parameters before its step; these are the ones after it."""
    if not is_finite(params):
        raise _diverged(run, f"the parameters after step {step} are not all finite")


def _diverged(run: Run, what: str) -> InputError:
    return InputError(
        f"{run.name}: {what}. The checkpoint before it is kept. Try, in a new --workdir, a smaller "
        f"learning_rate or clip_norm in config.{run.settings_name}."
    )


class _Reporter:
    """Tells of a training: a bar if a person watches, otherwise lines; metrics.jsonl always."""

    def __init__(self, run: Run, batches: pipeline.Batches, start: int):
        self._run = run
        self._batches = batches
        self._bar = tqdm(
            total=len(batches),
            initial=start,
            desc=run.name,
            unit="step",
            disable=None if parallel.is_first() else True,
        )
        self._clock = self._logged = time.monotonic()
        self._waited, self._first = 0.0, {}
        self._step = start

    def watch(self, arriving: Iterator) -> Iterator:
        """Passes batches on, and takes the time that the loop waits for them."""
        while True:
            asked = time.monotonic()
            try:
                batch = next(arriving)
            except StopIteration:
                return
            self._waited += time.monotonic() - asked
            yield batch

    def first_step_done(self) -> None:
        """Takes the time that it took, compiling and the start of the input included."""
        self._first = {"seconds_to_first_step": round(time.monotonic() - self._clock, 2)}

    def report(self, step: int, loss: float) -> None:
        now = time.monotonic()
        steps = step - self._step
        movies = self._batches.num_movies / self._batches.steps_per_epoch
        seconds = max(now - self._clock, 1e-9)
        rate, waiting = steps * movies / seconds, self._waited / seconds
        self._clock, self._waited, self._step = now, 0.0, step
        self._bar.update(steps)
        self._bar.set_postfix(loss=f"{loss:.4f}", movies_per_s=f"{rate:.1f}")
        if self._bar.disable and now - self._logged > SECONDS_BETWEEN_LINES:
            self._logged = now
            left = (len(self._batches) - step) * movies / rate
            logger.info("%s: step %d of %d, loss %.4f, %.1f movies/s, at most %.0f s left",
                         self._run.name, step, len(self._batches), loss, rate, left)  # fmt: skip
        self._write(
            step=step,
            loss=loss,
            movies_per_second=round(rate, 2),
            waiting_for_input=round(waiting, 4),
            **self._first,
        )
        self._first = {}

    def report_validation(self, step: int, epoch: int, figures: dict[str, float]) -> None:
        self._write(step=step, epoch=epoch, validation=figures)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        epochs = len(self._batches) // self._batches.steps_per_epoch
        logger.info("%s: epoch %d of at most %d: %s", self._run.name, epoch, epochs, shown)
        self._clock, self._waited = time.monotonic(), 0.0  # validation is not training time

    def close(self) -> None:
        self._bar.close()

    def _write(self, **fields) -> None:
        append_metrics(self._run.workdir, {"run": self._run.name, **fields})


def append_metrics(workdir: Path, fields: dict) -> None:
    """Adds a line to the working directory's `metrics.jsonl`."""
    append_line(workdir / "metrics.jsonl", json.dumps(fields))
