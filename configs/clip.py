"""The talk's system with CLIP in place of VGG16.

    pip install huggingface_hub
    mmgc train --config=clip --workdir=runs/clip \
        --config.data.path=FOLDER \
        --config.plot.vectors.file=VECTORS

configs/talk.py explains FOLDER and VECTORS. The image tower of CLIP ViT-B/32 (arXiv 2103.00020) is
copied from https://huggingface.co/openai/clip-vit-base-patch32, with all files of that folder. Its
layers are frozen, and a linear head is trained on its features. Other networks and smaller
downloads are in docs/inputs.md, and so is what to do if a folder has no model.safetensors:

    --config.poster_vit.folder=clip-vit-base-patch32

Neither time nor score is measured yet, since the published weights were not at hand.
"""

import ml_collections

from mmgc_jax.configs import talk
from mmgc_jax.encoders import poster_vit


def get_config() -> ml_collections.ConfigDict:
    config = talk.get_config()
    config.poster_vit = poster_vit.default_settings()
    config.poster_vit.folder = "hf://openai/clip-vit-base-patch32"
    config.encoders = ("plot", "poster_vit")
    config.fusion.encoders = config.encoders
    return config
