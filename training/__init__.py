"""Training of SAM-I2V++: data, simulated users, losses, optimisation; it imports i2vpp and is never imported by it."""
