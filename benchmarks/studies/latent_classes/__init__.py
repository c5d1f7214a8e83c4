"""Mixtures and latent classes: evidence, labels, modes, held-out score, coverage."""
