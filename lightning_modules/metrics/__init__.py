"""Scores that several families share: of drawn pictures, and of latent codes."""
