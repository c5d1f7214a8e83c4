"""The measured tables of mixtures and latent classes: evidence, co-clustering, labels, held-out score, coverage.

`benchmarks.studies.latent_classes.render.main` makes them anew and writes `docs/results/latent_classes.md`.
"""
