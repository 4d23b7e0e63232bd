# What an I/O thread does for the recorder. Nothing here for Python.
