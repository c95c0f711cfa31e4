"""Accounts in the configuration files of other programs, each format by a module of its own."""
