"""The mathematics of monitoring on published data sets, on synthetic streams and on annotated change points."""
