# Parameters on the wire. Native only: wire_parameters.pxd.
