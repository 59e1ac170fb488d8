"""Pages that run a trained model in the browser."""
