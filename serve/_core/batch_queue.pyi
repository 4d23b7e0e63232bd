# Nothing of this module is visible to Python; its contract is batch_queue.pxd.
