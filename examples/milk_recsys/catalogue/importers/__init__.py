"""Importers that convert tables and published data sets to the layout of `catalogue.dataset`."""
