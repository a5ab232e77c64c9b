"""The model's session of an open video: made again from the store when it is needed."""
