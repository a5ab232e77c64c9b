"""One video being worked on: where frames come from and what is known about each object."""
