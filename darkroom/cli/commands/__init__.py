"""Commands beside those of LightningCLI."""
