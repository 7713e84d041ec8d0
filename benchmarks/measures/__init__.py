"""What is measured: a module for each measure, which says which bars it must reach."""
