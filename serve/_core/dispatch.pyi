# Nothing of this module is visible to Python; its contract is dispatch.pxd.
