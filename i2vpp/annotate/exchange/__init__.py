"""Masks and prompts from and to the formats of others."""
