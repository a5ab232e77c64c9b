"""Records, pictures and errors of the disk."""
