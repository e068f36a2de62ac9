"""The study behind `reproduce.py`: what is tuned, which runs a table needs, the store, statistics, tables, figures."""
