"""The study of autoencoders: bounds, gaps and collapse."""
