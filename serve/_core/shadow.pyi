# Nothing of this module is visible to Python; its contract is shadow.pxd.
