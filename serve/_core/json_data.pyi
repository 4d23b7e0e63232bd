"""JSON data of a tensor. Native only: json_data.pxd."""
