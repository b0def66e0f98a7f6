"""Folders to deploy or to share: `mmgc export` writes them."""
