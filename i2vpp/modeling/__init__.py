"""The network: parameters under their published names, and pure verbs over tensors."""
