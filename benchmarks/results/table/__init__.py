"""Results of all embedded configs: ``make results`` runs them, stores raw values and writes docs/results.md."""
