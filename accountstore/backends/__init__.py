"""Adapters from storages to the seam in `accountstore.backends.base`."""
