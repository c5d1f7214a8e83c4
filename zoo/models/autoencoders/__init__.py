"""Deep latent-variable models whose decoder is trained, then held fixed."""
