"""Videos that are made instead of read: objects that move over a backdrop, drawn from a seed or cut out of photos."""
