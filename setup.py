"""Where the packages lie; all else about them stands in pyproject.toml."""

import setuptools

setuptools.setup(
    # The experiments lie in the top-level folder configs/ and are imported as mmgc_jax.configs, so
    # that an installed package has them too.
    packages=[*setuptools.find_packages(include=["mmgc_jax", "mmgc_jax.*"]), "mmgc_jax.configs"],
    package_dir={"mmgc_jax.configs": "configs"},
)
