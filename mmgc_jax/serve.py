"""Serves a page in the browser: a movie's genres from its plot and poster, and why.

    mmgc serve --workdir=runs/demo
    mmgc serve --workdir=runs/demo --port=8000 --host=0.0.0.0

Needs pip install 'mmgc_jax[serve]'. Only this machine can open the page, unless --host says
otherwise. Nothing that visitors give is kept: uploads are deleted after 15 minutes, and at the end.
"""

import importlib.util
import os
import pathlib
import tempfile
from collections.abc import Sequence

from absl import flags

from mmgc_jax import command_line
from mmgc_jax.runtime.errors import InputError

_MOST_EXAMPLES = 3


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "workdir", None, "Working directory of a finished experiment.", flag_values=values
    )
    flags.DEFINE_integer(
        "port",
        7860,
        "Port of the page.",
        lower_bound=1,
        upper_bound=65535,
        flag_values=values,
    )
    flags.DEFINE_string(
        "host",
        "127.0.0.1",
        "Address to listen at; 0.0.0.0 lets other machines open the page.",
        flag_values=values,
    )
    command_line.define_encoder_modules(values)


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise InputError("gradio is not installed. Run: pip install 'mmgc_jax[serve]'")
    # Imported here, so that --help and wrong flags are answered at once.
    from mmgc_jax.encoders import registry
    from mmgc_jax.evaluation import gallery, saved
    from mmgc_jax.pages import browser
    from mmgc_jax.predictor import Predictor
    from mmgc_jax.runtime import hub
    from mmgc_jax.runtime.files import as_path

    command_line.cache_small_programs()
    registry.import_modules(values.encoder_modules)
    predictor = Predictor.load(values.workdir, warm_up=True)
    examples = []
    if not hub.is_address(values.workdir):
        workdir = as_path(values.workdir)
        predictions = saved.load(workdir / saved.FILE)
        kept = {} if predictions is None else gallery.load(workdir, predictions)
        examples = list(kept.values())[:_MOST_EXAMPLES]
    with tempfile.TemporaryDirectory(prefix="mmgc-serve-") as folder:
        # Read by gradio when it is imported: where uploads are, and what it must not keep.
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_RUN_HISTORY": "False"}
        service = browser.Service(predictor, pathlib.Path(folder))
        browser.warm_up(service, examples)
        page = browser.build(
            service, f"Movie genres: {pathlib.PurePath(values.workdir).name}", examples
        )
        browser.launch(page, values.host, values.port)


def start(argv: Sequence[str] | None = None) -> None:
    """Runs `main` with the flags of a command line; None takes that of the process."""
    command_line.run(__doc__, define_flags, main, argv, required=("workdir",))


if __name__ == "__main__":
    start()
