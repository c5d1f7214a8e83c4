"""Deep latent-variable models whose decoder is trained and then held fixed."""
