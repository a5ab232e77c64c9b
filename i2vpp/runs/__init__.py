"""Runs: jobs shared by processes and machines, each made once and whole."""
