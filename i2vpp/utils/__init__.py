"""Small helpers on masks, clicks and pictures that know nothing of the network."""
