"""The report of a model's monitoring: one HTML file with its plots in it, from the document of the admin API."""
