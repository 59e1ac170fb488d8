"""Plans of training: table of the papers' recipes, predictions against measurements, growth."""
