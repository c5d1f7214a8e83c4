"""Mixtures and latent classes: evidence, co-clustering, labels, modes, held-out score, coverage."""
