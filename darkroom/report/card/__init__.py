"""Model card of a run: ``card.md`` in its folder, in the layout of the Hugging Face hub."""
