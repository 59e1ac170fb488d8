"""Images and videos without annotations, for ``darkroom predict``."""
