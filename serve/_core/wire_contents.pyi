# Typed contents of a tensor on the wire. Native only: wire_contents.pxd.
