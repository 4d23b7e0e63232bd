"""A repository of real models, made on the spot, and the views of `headrace infer` on two of them."""
