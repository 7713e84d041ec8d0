"""One module for each promise of the design; a broken promise fails here."""
