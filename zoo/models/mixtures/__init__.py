"""Finite mixtures and latent classes; labels are free, so comparisons are label-safe."""
