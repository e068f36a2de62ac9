"""Importers: tables and published data sets, written in the layout that the readers take."""
