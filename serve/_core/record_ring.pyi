# A bounded ring of whole records, from one I/O thread to the recorder. Nothing here for Python.
