"""Finite mixtures and latent classes; labels are free, so only label-safe quantities are compared."""
