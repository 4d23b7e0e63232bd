# Requests whose body is one tensor. Native only: raw_body.pxd.
