"""One module for each promise of ``docs/promises.md``; a broken promise fails here."""
