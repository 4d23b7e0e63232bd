# Nothing of this module is visible to Python; its contract is connection_io.pxd.
