"""What training adds to the network: the rollout over a clip, the simulated user, the initialisation."""
