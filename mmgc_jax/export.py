"""Writes a folder to deploy or to share: parameters, StableHLO, a loader and a model card.

    mmgc export --workdir=runs/demo --output=demo_model
    mmgc export --workdir=runs/demo --output=demo_model --push_to_hub=OWNER/NAME

The folder works without this package: `python demo_model/model.py --plot="..."` needs JAX, NumPy
and flatbuffers, with which JAX reads StableHLO; for posters that are files Pillow, too, and for
transformers tokenizers. With this package, `Predictor.load("demo_model")` reads it, and so does
--workdir of other commands.

--push_to_hub uploads the folder to the Hugging Face Hub, in one commit. A new repository there is
private; --public makes it public after the upload. `Predictor.load("hf://OWNER/NAME")` reads it.
"""

import logging
import pathlib
from collections.abc import Sequence

from absl import flags

from mmgc_jax import command_line
from mmgc_jax.runtime.errors import InputError

logger = logging.getLogger("mmgc_jax")


def define_flags(values: flags.FlagValues) -> None:
    def text(name: str, meaning: str, default: str | None = None) -> None:
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    text("workdir", "Working directory of a finished experiment.")
    text("output", "Folder to write; one of an earlier export is replaced.")
    flags.DEFINE_enum(
        "format",
        "stablehlo",
        ("stablehlo", "onnx"),
        "onnx adds ONNX files to those of stablehlo; it needs pip install 'mmgc_jax[onnx]'.",
        flag_values=values,
    )
    text("title", "Title of the model card. Without it, the name of the folder.")
    text(
        "license",
        "Identifier of the licence that you give to the model, such as cc-by-4.0, for the card.",
        "other",
    )
    text("push_to_hub", "Name of a repository, OWNER/NAME, to upload the folder to.")
    flags.DEFINE_bool(
        "public",
        False,
        "Whether to make the repository public after the upload.",
        flag_values=values,
    )
    command_line.define_encoder_modules(values)


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    from mmgc_jax.deployment import card, folder
    from mmgc_jax.encoders import registry
    from mmgc_jax.predictor import Predictor
    from mmgc_jax.runtime import hub
    from mmgc_jax.runtime.files import as_path, is_address, relative_to_here

    if is_address(values.output):
        raise InputError(f"--output={values.output}: a folder of this machine is needed.")
    if values.public and not values.push_to_hub:
        raise InputError("--public is for --push_to_hub=OWNER/NAME, which is missing.")
    registry.import_modules(values.encoder_modules)
    output = pathlib.Path(values.output).absolute()
    about = card.About(values.title or output.name, values.license, values.push_to_hub)
    folder.write(
        Predictor.load(values.workdir),
        as_path(values.workdir),
        output,
        about,
        with_onnx=values.format == "onnx",
    )
    shown = relative_to_here(output)
    print(f"Model card:  {shown / 'README.md'}\nTry it:      python {shown / 'model.py'} --help")
    if values.push_to_hub:
        message = f"Upload {about.title}"
        url = hub.upload(output, values.push_to_hub, message, public=values.public)
        print(f"Uploaded:    {url}")


def start(argv: Sequence[str] | None = None) -> None:
    """Runs `main` with the flags of a command line; None takes that of the process."""
    command_line.run(__doc__, define_flags, main, argv, required=("workdir", "output"))


if __name__ == "__main__":
    start()
