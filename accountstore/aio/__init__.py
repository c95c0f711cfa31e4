"""Event loops and threads: the only modules that know which ones there are."""
