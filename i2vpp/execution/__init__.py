"""How the network is run for the objects of a frame: in batches, compiled, recorded, timed."""
